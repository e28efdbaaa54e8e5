//! Queues that an operator has paused: their jobs wait until they are resumed.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Queue, Result, Tx, on_conn};

/// A paused queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct PausedQueue {
    #[sqlx(try_from = "String")]
    pub queue: Queue,
    pub reason: String,
    /// Who paused it.
    pub paused_by: String,
    pub since: DateTime<Utc>,
}

impl Tx {
    /// The paused queues, by name.
    pub async fn paused_queues(&mut self) -> Result<Vec<PausedQueue>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select queue, reason, paused_by, since from usher_paused_queues order by queue"
        )
        .fetch_all(conn)
        .await)?)
    }

    /// Pauses a queue; `false` if it was paused.
    pub async fn pause_queue(&mut self, queue: Queue, reason: &str, paused_by: &str) -> Result<bool> {
        let now = self.clock.now();
        let paused = on_conn!(self, |conn| sqlx::query(
            "insert into usher_paused_queues (queue, reason, paused_by, since) values ($1, $2, $3, $4)
             on conflict (queue) do nothing"
        )
        .bind(queue.as_str())
        .bind(reason)
        .bind(paused_by)
        .bind(now)
        .execute(conn)
        .await?
        .rows_affected());
        Ok(paused == 1)
    }

    /// Resumes a queue; `false` if it was not paused.
    pub async fn resume_queue(&mut self, queue: Queue) -> Result<bool> {
        let resumed = on_conn!(self, |conn| sqlx::query(
            "delete from usher_paused_queues where queue = $1"
        )
        .bind(queue.as_str())
        .execute(conn)
        .await?
        .rows_affected());
        Ok(resumed == 1)
    }
}
