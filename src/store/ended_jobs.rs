//! How many jobs of each queue ended in each minute of the last day, for the board.

use chrono::{DateTime, Utc};

use super::rows::{Row as _, row, sql, to_json};
use super::{Queue, Result, Tx, on_conn};

/// Jobs of one queue that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedJobs {
    pub queue: Queue,
    pub done: u32,
    pub failed: u32,
}

/// Jobs of one queue that ended in one minute.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct MinuteOfJobs {
    pub queue: String,
    /// Since the Unix epoch.
    pub minute: i64,
    pub done: i64,
    pub failed: i64,
}

row! {
    struct EndedRow<'a> {
        queue: &'a str,
        done: u32,
        failed: u32,
    }
}

/// The minute of a time, since the Unix epoch.
pub fn minute_of(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(60)
}

impl Tx {
    /// Adds jobs to those of this minute.
    pub async fn add_ended_jobs(&mut self, ended: &[EndedJobs]) -> Result<()> {
        let minute = minute_of(self.clock.now());
        let mut rows: Vec<EndedRow> = ended
            .iter()
            .map(|row| EndedRow {
                queue: row.queue.as_str(),
                done: row.done,
                failed: row.failed,
            })
            .collect();
        // Always in this order, to avoid deadlocks.
        rows.sort_by_key(|row| row.queue);
        let (columns, source) = (EndedRow::columns(), EndedRow::unfold(self.dialect()));
        let text = format!(
            "insert into usher_ended_jobs (minute, {columns}) select $2, r.* from {source} where true
             on conflict (minute, queue) do update set
                 done = usher_ended_jobs.done + excluded.done, failed = usher_ended_jobs.failed + excluded.failed"
        );
        let rows = to_json(&rows)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .bind(minute)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// The minutes since a time in which jobs ended.
    pub async fn ended_jobs(&mut self, since: DateTime<Utc>) -> Result<Vec<MinuteOfJobs>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select queue, minute, done, failed from usher_ended_jobs where minute >= $1 order by minute"
        )
        .bind(minute_of(since))
        .fetch_all(conn)
        .await)?)
    }

    /// Deletes the minutes of before a time; returns how many rows.
    pub async fn drop_ended_jobs(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        Ok(on_conn!(self, |conn| sqlx::query(
            "delete from usher_ended_jobs where (minute, queue) in (
                 select minute, queue from usher_ended_jobs where minute < $1 order by minute limit $2)"
        )
        .bind(minute_of(before))
        .bind(i64::from(limit))
        .execute(conn)
        .await?
        .rows_affected()))
    }
}
