//! Deletes old rows in batches: each batch is a short transaction that finds its rows by an index, so that the running
//! service hardly notices.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use ulid::Ulid;
use uuid::Uuid;

use super::jobs::dialect_sql;
use super::rows::{among, sql};
use super::{Dialect, JobState, Queue, Result, Tx, on_conn};

/// The result of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub rows: u64,
    /// Where the next batch begins; `None` if this was the last one.
    pub next: Option<String>,
}

impl Tx {
    /// Deletes jobs in one state that were enqueued and ended before a time, with their failed attempts. Ids sort by
    /// time, so the primary key finds the oldest.
    pub async fn drop_jobs(
        &mut self,
        state: JobState,
        before: DateTime<Utc>,
        after: &str,
        limit: u32,
    ) -> Result<Batch> {
        let words = dialect_sql(self.dialect());
        let names = match self.dialect() {
            Dialect::Postgres => "select json_array_elements_text($4::text::json)",
            Dialect::Sqlite => "select value from json_each($4)",
        };
        let select = format!(
            "select id from {} where id > $1 and id < $2 and {} and {} and {} < $3 order by id limit {limit}",
            words.table,
            among(self.dialect(), "job_type", names),
            state.condition(words.now),
            (words.seconds)("coalesce(done_at, run_at)"),
        );
        let queues = Queue::all_stored()?;
        let last = Ulid::from_parts(before.timestamp_millis().unsigned_abs(), 0).to_string();
        let ids: Vec<String> = on_conn!(self, |conn| sqlx::query_scalar(sql(select))
            .bind(after)
            .bind(last)
            .bind(before.timestamp())
            .bind(queues)
            .fetch_all(conn)
            .await)?;
        Ok(Batch {
            rows: self.purge_jobs(&ids).await?,
            next: ids.last().cloned().filter(|_| ids.len() == limit as usize),
        })
    }

    /// Clears the payloads of events that were processed before a time; returns how many.
    pub async fn clear_payloads(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.up_to(
            "update usher_events set payload = null where svix_id in (
                 select svix_id from usher_events
                 where processed_at is not null and payload is not null and processed_at < $1
                 order by processed_at limit $2)",
            before,
            limit,
        )
        .await
    }

    /// Deletes events that were processed before a time and whose payload is cleared; returns how many.
    pub async fn drop_events(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.up_to(
            "delete from usher_events where svix_id in (
                 select svix_id from usher_events
                 where processed_at is not null and payload is null and processed_at < $1
                 order by processed_at limit $2)",
            before,
            limit,
        )
        .await
    }

    /// Deletes answers that were stored before a time; returns how many.
    pub async fn drop_idempotency_keys(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.up_to(
            "delete from usher_idempotency_keys where (api_key, idempotency_key) in (
                 select api_key, idempotency_key from usher_idempotency_keys
                 where created_at < $1 order by created_at limit $2)",
            before,
            limit,
        )
        .await
    }

    async fn up_to(&mut self, text: &'static str, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        Ok(on_conn!(self, |conn| sqlx::query(text)
            .bind(before)
            .bind(i64::from(limit))
            .execute(conn)
            .await?
            .rows_affected()))
    }

    /// Deletes mails that were queued before a time and are not to be sent any more.
    pub async fn drop_deliveries(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.up_to_id(
            "delete from usher_deliveries where id in (
                 select id from usher_deliveries where id < $1 and status <> 'queued' order by id limit $2)",
            before,
            limit,
        )
        .await
    }

    /// Deletes what happened to invites before a time. That of an open invite is kept: its last refusal says why it
    /// still waits.
    pub async fn drop_history(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.up_to_id(
            "delete from usher_invite_history where id in (
                 select h.id from usher_invite_history h where h.id < $1
                     and (select i.status from invites i where i.id = h.invite_id) <> 'pending'
                 order by h.id limit $2)",
            before,
            limit,
        )
        .await
    }

    /// Deletes sessions that ended before a time, and those that began before it and whose end was never told.
    pub async fn drop_sessions(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.up_to(
            "delete from usher_sessions where clerk_session_id in (
                 select clerk_session_id from usher_sessions where coalesce(ended_at, started_at) < $1
                 order by coalesce(ended_at, started_at) limit $2)",
            before,
            limit,
        )
        .await
    }

    /// usher's workers that were last seen before a time and are named by no job. The jobs are read only if there are
    /// such workers: they have no index by worker.
    pub async fn former_workers(&mut self, before: DateTime<Utc>) -> Result<Vec<String>> {
        let dialect = dialect_sql(self.dialect());
        let (workers, last_seen) = (dialect.workers, (dialect.seconds)("last_seen"));
        let text = format!("select id from {workers} where worker_type like 'usher:%' and {last_seen} < $1");
        let mut former: Vec<String> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(before.timestamp())
            .fetch_all(conn)
            .await)?;
        if former.is_empty() {
            return Ok(former);
        }
        let text = format!(
            "select distinct lock_by from {} where lock_by is not null",
            dialect.table
        );
        let named: Vec<String> = on_conn!(self, |conn| sqlx::query_scalar(sql(text)).fetch_all(conn).await)?;
        let named: HashSet<String> = named.into_iter().collect();
        former.retain(|name| !named.contains(name));
        Ok(former)
    }

    /// One at a time: for the foreign key the database reads all jobs, which takes half a second for a million on SQLite.
    pub async fn drop_worker(&mut self, name: &str) -> Result<()> {
        let text = format!("delete from {} where id = $1", dialect_sql(self.dialect()).workers);
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(name)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// As [`Tx::up_to`], of rows whose ids are UUIDv7 and so sort by time.
    async fn up_to_id(&mut self, text: &'static str, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        // The first one of that time: 48 bits of milliseconds.
        let first = Uuid::from_u128(u128::from(before.timestamp_millis().unsigned_abs()) << 80);
        Ok(on_conn!(self, |conn| sqlx::query(text)
            .bind(first)
            .bind(i64::from(limit))
            .execute(conn)
            .await?
            .rows_affected()))
    }
}
