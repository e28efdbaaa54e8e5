//! Attempts at jobs that failed.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::store::{Conn, Result, Tx, on_conn};

#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct FailedAttempt {
    pub job_id: String,
    pub attempt: i32,
    pub failed_at: DateTime<Utc>,
    pub error: String,
}

#[derive(Debug, Clone, Copy)]
pub struct NewFailure<'a> {
    pub job_id: &'a str,
    /// Counted from 1.
    pub attempt: u32,
    /// The id of the event or delivery.
    pub about: Option<&'a str>,
    /// The error, without addresses.
    pub error: &'a str,
    /// When it is retried; `None` if it is dead.
    pub again_at: Option<DateTime<Utc>>,
}

impl Tx {
    /// Stores a failed attempt and defers the job if it will be retried. apalis has no durable back-off of its own; its
    /// ack does not change `run_at`, and its fetch respects it (APALIS trap 6).
    pub async fn note_failure(&mut self, failure: &NewFailure<'_>) -> Result<()> {
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(
            "insert into usher_job_failures (job_id, attempt, failed_at, error, about) values ($1, $2, $3, $4, $5)
             on conflict do nothing"
        )
        .bind(failure.job_id)
        .bind(i32::try_from(failure.attempt).unwrap_or(i32::MAX))
        .bind(now)
        .bind(failure.error)
        .bind(failure.about)
        .execute(conn)
        .await
        .map(drop))?;
        match failure.again_at {
            Some(until) => self.defer_job(failure.job_id, until).await,
            None => Ok(()),
        }
    }

    pub(in crate::store) async fn defer_job(&mut self, job_id: &str, until: DateTime<Utc>) -> Result<()> {
        match &mut self.conn {
            Conn::Postgres(conn) => {
                sqlx::query("update apalis.jobs set run_at = $2 where id = $1")
                    .bind(job_id)
                    .bind(until)
                    .execute(&mut **conn)
                    .await?;
            }
            Conn::Sqlite(conn) => {
                sqlx::query("update Jobs set run_at = $2 where id = $1")
                    .bind(job_id)
                    .bind(until.timestamp())
                    .execute(&mut **conn)
                    .await?;
            }
        }
        Ok(())
    }

    /// The failed attempts at one job, oldest first.
    pub async fn failures_of_job(&mut self, job_id: &str) -> Result<Vec<FailedAttempt>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select job_id, attempt, failed_at, error from usher_job_failures where job_id = $1
             order by failed_at, attempt"
        )
        .bind(job_id)
        .fetch_all(conn)
        .await)?)
    }

    /// The failed attempts at all jobs of one event or delivery, oldest first.
    pub async fn failures_about(&mut self, about: &str) -> Result<Vec<FailedAttempt>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select job_id, attempt, failed_at, error from usher_job_failures where about = $1
             order by failed_at, attempt"
        )
        .bind(about)
        .fetch_all(conn)
        .await)?)
    }
}
