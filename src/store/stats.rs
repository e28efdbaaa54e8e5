//! Queue depth and pool statistics for monitoring. They stay cheap beside a million finished jobs: each query uses an
//! index that holds only unfinished or dead jobs.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::jobs::state::{DEAD, FAILED, HELD, PENDING, PENDING_OR_FAILED, RETRYING, UNFINISHED};
use super::migrate::TABLE;
use super::rows::sql;
use super::{JobState, Pool, PoolName, Queue, Result, Store};
use crate::metrics::QueueDepth;

/// Jobs of one queue in one state.
#[derive(sqlx::FromRow)]
struct Count {
    job_type: String,
    state: String,
    jobs: i64,
    /// Seconds since the oldest of them was due.
    age: f64,
}

/// A connection pool of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    pub pool: &'static str,
    pub in_use: usize,
    pub idle: usize,
}

/// Jobs of one queue that a worker holds.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct HeldJobs {
    pub worker: String,
    pub queue: String,
    pub jobs: i64,
}

/// One statement for each state, so that each uses its partial index. `$1` holds the queues' names.
fn on_postgres() -> String {
    let count = |state: JobState, age: &str| {
        format!(
            "select job_type, '{state}' as state, count(*) as jobs, {age} as age
             from apalis.jobs where job_type = any (array(select json_array_elements_text($1::text::json)))
                 and {} group by job_type",
            state.condition("now()")
        )
    };
    let counts = [
        count(
            JobState::Waiting,
            "greatest(extract(epoch from now() - min(run_at)), 0)::float8",
        ),
        count(JobState::Scheduled, "0"),
        count(JobState::Running, "0"),
        count(JobState::Dead, "0"),
    ];
    counts.join(" union all ")
}

/// From the entries of SQLite's indexes alone, where there may be many: a hundred thousand rows take ten times as long.
/// Those say nothing of attempts, so the few dead jobs among the failed ones are taken off. `$1` holds the queues' names.
fn on_sqlite() -> String {
    format!(
        "with queues (name) as (select value from json_each($1)),
         dead as (select job_type, status, run_at from Jobs where job_type in (select name from queues) and ({DEAD}))
         select job_type, 'waiting' as state, sum(jobs) as jobs, max(unixepoch() - min(first), 0) + 0.0 as age from (
             select job_type, count(*) as jobs, min(run_at) as first from Jobs where {UNFINISHED}
                 and job_type in (select name from queues) and {PENDING} and run_at <= unixepoch() group by job_type
             union all select job_type, count(*), min(run_at) from Jobs where {UNFINISHED}
                 and job_type in (select name from queues) and {RETRYING} and run_at <= unixepoch()
                 group by job_type) group by job_type
         union all select job_type, 'scheduled', sum(jobs), 0.0 from (
             select job_type, count(*) as jobs from Jobs where {UNFINISHED} and job_type in (select name from queues)
                 and {PENDING_OR_FAILED} and run_at > unixepoch() group by job_type
             union all select job_type, -count(*) from dead
                 where {FAILED} and run_at > unixepoch() group by job_type) group by job_type
         union all select job_type, 'running', count(*), 0.0 from Jobs where {UNFINISHED}
             and job_type in (select name from queues) and {HELD} group by job_type
         union all select job_type, 'dead', count(*), 0.0 from dead group by job_type"
    )
}

impl Store {
    /// The jobs of each queue by state, without finished jobs.
    pub async fn queue_depths(&self) -> Result<Vec<QueueDepth>> {
        let queues = Queue::all_stored()?;
        let counts: Vec<Count> = match &self.pool {
            Pool::Postgres(pool) => sqlx::query_as(sql(on_postgres())).bind(queues).fetch_all(pool).await?,
            Pool::Sqlite { reader, .. } => sqlx::query_as(sql(on_sqlite())).bind(queues).fetch_all(reader).await?,
        };
        let counts: HashMap<(&str, &str), &Count> = counts
            .iter()
            .map(|count| ((count.job_type.as_str(), count.state.as_str()), count))
            .collect();
        let depth = |queue: Queue| {
            let count = |state| counts.get(&(queue.stored(), state));
            let jobs = |state| count(state).map_or(0, |count| count.jobs.unsigned_abs());
            QueueDepth {
                queue: queue.as_str(),
                waiting: jobs("waiting"),
                scheduled: jobs("scheduled"),
                running: jobs("running"),
                dead: jobs("dead"),
                oldest_age: count("waiting").map_or(0.0, |count| count.age),
            }
        };
        Ok(Queue::ALL.iter().map(|&queue| depth(queue)).collect())
    }

    /// The jobs that workers hold: how many of each queue, by the worker's name.
    pub async fn held_jobs(&self) -> Result<Vec<HeldJobs>> {
        let queues = Queue::all_stored()?;
        const SELECT: &str = "select lock_by as worker, job_type as queue, count(*) as jobs from";
        let rest = format!(
            "and {HELD} and lock_by is not null group by lock_by, job_type order by lock_by, job_type limit 100"
        );
        let mut held: Vec<HeldJobs> = match &self.pool {
            Pool::Postgres(pool) => {
                let text = format!(
                    "{SELECT} apalis.jobs where job_type = any (array(select json_array_elements_text($1::text::json))) {rest}"
                );
                sqlx::query_as(sql(text)).bind(queues).fetch_all(pool).await?
            }
            Pool::Sqlite { reader, .. } => {
                let text = format!("{SELECT} Jobs where job_type in (select value from json_each($1)) {rest}");
                sqlx::query_as(sql(text)).bind(queues).fetch_all(reader).await?
            }
        };
        for row in &mut held {
            if let Some(queue) = Queue::of_stored(&row.queue) {
                row.queue = queue.as_str().to_owned();
            }
        }
        Ok(held)
    }

    #[must_use]
    pub fn pool_stats(&self) -> Vec<PoolStats> {
        fn stats<DB: sqlx::Database>(name: &'static str, pool: &sqlx::Pool<DB>) -> PoolStats {
            let (all, idle) = (pool.size() as usize, pool.num_idle());
            PoolStats {
                pool: name,
                in_use: all.saturating_sub(idle),
                idle,
            }
        }
        if let Pool::Sqlite { writer, reader } = &self.pool {
            return vec![stats("sqlite_writer", writer), stats("sqlite_reader", reader)];
        }
        let of_pool = |name: PoolName| match self.pools.get(name) {
            Pool::Postgres(pool) => Some(stats(name.as_str(), pool)),
            Pool::Sqlite { .. } => None,
        };
        PoolName::ALL.into_iter().filter_map(of_pool).collect()
    }

    /// The database server's time; `None` if it is this machine's.
    pub async fn database_time(&self) -> Result<Option<DateTime<Utc>>> {
        match &self.pool {
            Pool::Postgres(pool) => Ok(Some(sqlx::query_scalar("select now()").fetch_one(pool).await?)),
            Pool::Sqlite { .. } => Ok(None),
        }
    }

    /// Whether the schema is the one that this version needs, or a newer one.
    ///
    /// # Errors
    /// Also when there is no schema at all.
    pub async fn is_migrated(&self) -> Result<bool> {
        let text = format!("select version from {TABLE} where success");
        let applied: Vec<i64> = match &self.pool {
            Pool::Postgres(pool) => sqlx::query_scalar(sql(text)).fetch_all(pool).await?,
            Pool::Sqlite { reader, .. } => sqlx::query_scalar(sql(text)).fetch_all(reader).await?,
        };
        Ok(self
            .migrations
            .iter()
            .all(|migration| applied.contains(&migration.version)))
    }
}
