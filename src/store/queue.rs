//! The queue as usher uses it: enqueueing in the transaction that made it true, durable back-off, heartbeats, and the
//! signal that wakes this process's workers. The tables are apalis's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use ulid::Ulid;

use super::jobs::dialect_sql;
use super::rows::{Type, sql, to_json, unfold};
use super::{Dialect, NewFailure, Pool, Result, Store, Tx, on_conn};
use crate::clock::Clock;
use crate::names::named;

named! {
    /// The queues. Their names are literals, stored with the jobs: renaming a type must not strand queued work.
    Queue("queue") {
        /// Events from Clerk.
        ProcessClerkEvent = "process-clerk-event",
        /// Mails to invited addresses.
        SendInviteEmail = "send-invite-email",
        /// Mails to inviters whose invite was accepted.
        SendAcceptedNotice = "send-accepted-notice",
        /// What is done again and again.
        Periodic = "periodic",
    }
}

impl Queue {
    /// After so many attempts a job is dead. With the back-off's cap of an hour this outlives two days of outage.
    pub const MAX_ATTEMPTS: i32 = 60;

    /// The name that it is stored by: the tables are the whole database's, and another program may keep its jobs there.
    #[must_use]
    pub const fn stored(self) -> &'static str {
        match self {
            Self::ProcessClerkEvent => "usher:process-clerk-event",
            Self::SendInviteEmail => "usher:send-invite-email",
            Self::SendAcceptedNotice => "usher:send-accepted-notice",
            Self::Periodic => "usher:periodic",
        }
    }

    /// The queue that is stored by this name, if it is one of usher's.
    #[must_use]
    pub fn of_stored(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|queue| queue.stored() == name)
    }

    /// The stored names of all, as JSON.
    pub(super) fn all_stored() -> Result<String> {
        to_json(&Self::ALL.iter().map(|queue| queue.stored()).collect::<Vec<_>>())
    }
}

/// apalis's own limit on attempts. Ours is [`Queue::MAX_ATTEMPTS`], and when it is reached the death is noted first; a
/// job whose death could not be noted would be stranded by apalis's limit, neither run again nor dead.
pub(super) const UNCOUNTED: i32 = i32::MAX;

/// Between two tries to listen.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Wakes the workers of this process when something was enqueued.
#[derive(Debug, Clone)]
pub struct Wake(Arc<HashMap<Queue, watch::Sender<()>>>);

impl Default for Wake {
    fn default() -> Self {
        let signals = Queue::ALL.iter().map(|&queue| (queue, watch::Sender::new(())));
        Self(Arc::new(signals.collect()))
    }
}

impl Wake {
    /// Something is waiting in this queue.
    pub fn signal(&self, queue: Queue) {
        if let Some(signal) = self.0.get(&queue) {
            signal.send_replace(());
        }
    }

    /// Everything that is signalled from now on.
    #[must_use]
    pub fn subscribe(&self, queue: Queue) -> Option<watch::Receiver<()>> {
        self.0.get(&queue).map(watch::Sender::subscribe)
    }
}

/// What apalis's trigger tells.
#[derive(Deserialize)]
struct Inserted {
    job_type: String,
}

#[derive(Serialize)]
struct JobRow {
    job_id: String,
    payload: String,
}

impl Tx {
    /// Enqueues jobs that are due at once, as part of this transaction. Payloads hold ids only.
    pub async fn enqueue<T: Serialize>(&mut self, queue: Queue, payloads: &[T]) -> Result<()> {
        if payloads.is_empty() {
            return Ok(());
        }
        let mut jobs = Vec::with_capacity(payloads.len());
        for payload in payloads {
            let payload = serde_json::to_string(payload).map_err(|error| sqlx::Error::Encode(error.into()))?;
            jobs.push(JobRow {
                job_id: new_job_id(&self.clock),
                payload,
            });
        }
        let rows = unfold(self.dialect(), &[("job_id", Type::Text), ("payload", Type::Text)]);
        // The tables are apalis's and differ by name and types. Due since the database's own now, which is the clock
        // that fetching goes by. On Postgres `metadata` stays null: naming hstore would need it on the search path.
        let text = match self.dialect() {
            Dialect::Postgres => format!(
                "insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
                 select r.job_id, $2, convert_to(r.payload, 'UTF8'), 'Pending', 0, $3, now(), 0 from {rows}"
            ),
            Dialect::Sqlite => format!(
                "insert into Jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, metadata)
                 select r.job_id, $2, cast(r.payload as blob), 'Pending', 0, $3, unixepoch(), 0, '{{}}' from {rows}"
            ),
        };
        let jobs = to_json(&jobs)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(jobs)
            .bind(queue.stored())
            .bind(UNCOUNTED)
            .execute(conn)
            .await
            .map(drop))?;
        self.enqueued.push(queue);
        Ok(())
    }
}

impl Tx {
    async fn release_job(&mut self, job_id: &str, due: DateTime<Utc>) -> Result<()> {
        self.defer_job(job_id, due).await?;
        let text = format!(
            "update {} set status = 'Pending', lock_by = null, lock_at = null
             where id = $1 and status in ('Queued', 'Running')",
            dialect_sql(self.dialect()).table
        );
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(job_id)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }
}

/// apalis on Postgres takes ULIDs only; a UUIDv7 has the same layout.
pub(super) fn new_job_id(clock: &Clock) -> String {
    Ulid::from(clock.new_id()).to_string()
}

impl Store {
    /// [`Tx::note_failure`] in a transaction of its own.
    pub async fn note_failure(&self, failure: &NewFailure<'_>) -> Result<()> {
        self.transaction(failure, |tx, failure| tx.note_failure(failure).boxed())
            .await
    }

    /// Gives a job back that was not tried, due at a time, as if its worker had never fetched it: the acknowledgement
    /// that follows speaks of a job that the worker does not hold any more, and counts no attempt.
    pub async fn give_back_job(&self, job_id: &str, due: DateTime<Utc>) -> Result<()> {
        self.transaction(job_id, |tx, job_id| tx.release_job(job_id, due).boxed())
            .await
    }

    /// Hears of jobs that other processes enqueue, and wakes this process's workers. Never returns; on SQLite there is
    /// nothing to hear.
    pub async fn relay_notifications(&self) {
        let Pool::Postgres(pool) = &self.pool else {
            return std::future::pending().await;
        };
        let mut losses = self.losses();
        loop {
            let error = tokio::select! {
                outcome = self.listen(pool) => {
                    let Err(error) = outcome;
                    error
                }
                Ok(()) = losses.changed() => super::no_answer().into(),
            };
            tracing::warn!(error = %error, "lost the LISTEN connection for new jobs; reconnecting");
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    }

    async fn listen(&self, pool: &sqlx::PgPool) -> Result<std::convert::Infallible> {
        // A pool of its own: a listener says good-bye without a limit, and would keep a lost connection's place.
        let alone = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(super::ACQUIRE_TIMEOUT)
            .connect_lazy_with(pool.connect_options().as_ref().clone());
        let mut listener = PgListener::connect_with(&alone).await?;
        listener.listen("apalis::job::insert").await?;
        loop {
            // Whatever came while the connection was lost is not told again.
            match listener.try_recv().await? {
                Some(notification) => {
                    let told = serde_json::from_str::<Inserted>(notification.payload()).ok();
                    if let Some(queue) = told.and_then(|told| Queue::of_stored(&told.job_type)) {
                        self.wake.signal(queue);
                    }
                }
                None => Queue::ALL.iter().for_each(|&queue| self.wake.signal(queue)),
            }
        }
    }

    /// Says that these workers live. apalis's own heartbeat stops while a fetched batch waits for free slots
    /// (APALIS trap 3). Where one of them holds a job for longer than is allowed in its queue, the acknowledgement
    /// waits on a connection that is lost, and [`Store::losses`] tells so.
    pub async fn heartbeat(&self, workers: &[String], overdue: &[(Queue, Duration)]) -> Result<()> {
        let names = to_json(workers)?;
        let limits: HashMap<&str, u64> = overdue
            .iter()
            .map(|(queue, limit)| (queue.stored(), limit.as_secs()))
            .collect();
        let limits = serde_json::to_string(&limits).map_err(|error| sqlx::Error::Encode(error.into()))?;
        match &self.pool {
            Pool::Postgres(pool) => {
                // Told for ten seconds each time the limit has passed: the worker is soon replaced, and this asks every
                // five. A job that is held is `Queued`, because locking it once more is switched off (APALIS trap 24).
                let is_overdue: bool = sqlx::query_scalar(
                    "with beating as (
                         update apalis.workers set last_seen = now()
                         where id in (select json_array_elements_text($1::text::json)) returning id
                     ), held as (
                         select extract(epoch from now() - lock_at)::bigint as seconds, overdue.value::bigint as most
                         from apalis.jobs join beating on beating.id = jobs.lock_by
                             join json_each_text($2::text::json) as overdue on overdue.key = jobs.job_type
                         where jobs.status in ('Queued', 'Running')
                     )
                     select exists (select from held where seconds >= most and seconds % most < 10)",
                )
                .bind(names)
                .bind(limits)
                .fetch_one(pool)
                .await?;
                if is_overdue {
                    tracing::warn!("a finished job was never acknowledged; treating its database connection as lost");
                    self.lost.send_replace(());
                }
            }
            Pool::Sqlite { writer, .. } => {
                sqlx::query("update Workers set last_seen = unixepoch() where id in (select value from json_each($1))")
                    .bind(names)
                    .execute(writer)
                    .await?;
            }
        }
        Ok(())
    }

    /// Takes over what a process of the version before this one enqueues while it still runs beside this one: its queues
    /// have no prefix. What another program keeps under the same names carries something else.
    pub async fn take_over_old_queues(&self) -> Result<()> {
        let Pool::Postgres(pool) = &self.pool else {
            return Ok(()); // There a new version starts after the old one has ended.
        };
        let taken = sqlx::query(
            "update apalis.jobs set job_type = 'usher:' || job_type where status in ('Pending', 'Queued', 'Running', 'Failed')
               and ((job_type = 'process-clerk-event' and position('\"svix_id\"'::bytea in job) > 0)
                 or (job_type in ('send-invite-email', 'send-accepted-notice')
                     and position('\"delivery_id\"'::bytea in job) > 0)
                 or (job_type = 'periodic' and position('\"schedule\"'::bytea in job) > 0))",
        )
        .execute(pool)
        .await?;
        if taken.rows_affected() > 0 {
            Queue::ALL.iter().for_each(|&queue| self.wake.signal(queue));
        }
        Ok(())
    }

    /// Says that these workers are gone, nothing of theirs running any more, and gives back what they hold. A worker that
    /// stops or ends while it fetches leaves rows locked that it never saw; apalis does not give those back.
    pub async fn retire_workers(&self, workers: &[String]) -> Result<()> {
        let names = to_json(workers)?;
        match &self.pool {
            Pool::Postgres(pool) => {
                sqlx::query(
                    "with gone as (
                         update apalis.workers set last_seen = to_timestamp(0)
                         where id in (select json_array_elements_text($1::text::json)) returning id
                     )
                     update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null, done_at = null,
                         attempts = attempts + case status when 'Running' then 1 else 0 end
                     from gone where lock_by = gone.id and status in ('Running', 'Queued')",
                )
                .bind(names)
                .execute(pool)
                .await?;
            }
            Pool::Sqlite { writer, .. } => {
                for text in [
                    "update Workers set last_seen = 0 where id in (select value from json_each($1))",
                    "update Jobs set status = 'Pending', lock_by = null, lock_at = null, done_at = null,
                         attempts = attempts + case status when 'Running' then 1 else 0 end
                     where status in ('Running', 'Queued') and lock_by in (select value from json_each($1))",
                ] {
                    sqlx::query(text).bind(&names).execute(writer).await?;
                }
            }
        }
        for &queue in Queue::ALL {
            self.wake.signal(queue);
        }
        Ok(())
    }

    /// Gives the jobs of workers that have been silent for `limit` back to the queue, one attempt dearer; returns how
    /// many there were. apalis's own sweep knows only the workers of one queue and, on SQLite, never its own name.
    ///
    /// Three times they are due at once. A job that is lost again and again may be what its process dies of: from then on
    /// it waits longer each time, from 20 s up to an hour, and apart from those that were lost with it, so that it neither
    /// keeps the service down nor takes them with it.
    pub async fn recover_orphans(&self, limit: TimeDelta) -> Result<u64> {
        let queues = Queue::all_stored()?;
        let recovered = match &self.pool {
            Pool::Postgres(pool) => sqlx::query(
                "with orphans as (
                     select jobs.id from apalis.jobs join apalis.workers on workers.id = jobs.lock_by
                     where jobs.status in ('Running', 'Queued') and workers.last_seen < now() - make_interval(secs => $1)
                       and jobs.job_type in (select json_array_elements_text($2::text::json))
                     for update of jobs skip locked
                 )
                 update apalis.jobs set status = 'Pending', attempts = attempts + 1, lock_by = null, lock_at = null,
                     done_at = null, last_result = '{\"Err\": \"its worker fell silent\"}',
                     run_at = case when attempts < 3 or attempts + 1 >= max_attempts then run_at else now() + make_interval(
                         secs => least(10 * (1 << least(attempts - 2, 9)), 3600) * (0.5 + random())) end
                 from orphans where jobs.id = orphans.id",
            )
            .bind(limit.as_seconds_f64())
            .bind(queues)
            .execute(pool)
            .await?
            .rows_affected(),
            Pool::Sqlite { writer, .. } => sqlx::query(
                "update Jobs set status = 'Pending', attempts = attempts + 1, lock_by = null, lock_at = null,
                     done_at = null, last_result = '{\"Err\": \"its worker fell silent\"}',
                     run_at = case when attempts < 3 or attempts + 1 >= max_attempts then run_at else unixepoch()
                         + min(10 * (1 << min(attempts - 2, 9)), 3600) * (500 + abs(random() % 1000)) / 1000 end
                 where status in ('Running', 'Queued')
                   and lock_by in (select id from Workers where last_seen < unixepoch() - $1)
                   and job_type in (select value from json_each($2))",
            )
            .bind(limit.num_seconds())
            .bind(queues)
            .execute(writer)
            .await?
            .rows_affected(),
        };
        if recovered > 0 {
            for &queue in Queue::ALL {
                self.wake.signal(queue);
            }
        }
        Ok(recovered)
    }
}
