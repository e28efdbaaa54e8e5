//! The queue as usher uses it: enqueueing in the transaction, durable back-off, heartbeats, and the signal that wakes
//! this process's workers. The tables belong to apalis.

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
use super::jobs::state::{COUNT_IF_STARTED, HELD, NEW, RELEASE};
use super::rows::{Row as _, row, sql, to_json};
use super::{Dialect, NewFailure, Pool, Result, Store, Tx, on_conn};
use crate::clock::Clock;
use crate::names::named;

named! {
    /// The queues. Their names are literals that are stored with the jobs: renaming a type must not orphan queued jobs.
    Queue("queue") {
        /// Processes events from Clerk.
        ProcessClerkEvent = "process-clerk-event",
        /// Sends mails.
        SendMail = "send-mail",
        /// Runs periodic work.
        Periodic = "periodic",
        /// Sends events to the first endpoint of the app.
        DeliverEvent1 = "deliver-event-1",
        /// To the second.
        DeliverEvent2 = "deliver-event-2",
        /// To the third.
        DeliverEvent3 = "deliver-event-3",
        /// To the fourth.
        DeliverEvent4 = "deliver-event-4",
        /// To the fifth.
        DeliverEvent5 = "deliver-event-5",
        /// To the sixth.
        DeliverEvent6 = "deliver-event-6",
        /// To the seventh.
        DeliverEvent7 = "deliver-event-7",
        /// To the eighth.
        DeliverEvent8 = "deliver-event-8",
    }
}

impl Queue {
    /// One for each endpoint of `USHER_EVENTS`, so that an endpoint that hangs delays its own events only.
    pub const DELIVERIES: [Self; 8] = [
        Self::DeliverEvent1,
        Self::DeliverEvent2,
        Self::DeliverEvent3,
        Self::DeliverEvent4,
        Self::DeliverEvent5,
        Self::DeliverEvent6,
        Self::DeliverEvent7,
        Self::DeliverEvent8,
    ];

    /// After this many attempts a job is dead. With the back-off's cap of an hour this is more than two days of outage.
    pub const MAX_ATTEMPTS: i32 = 60;

    /// The stored name, with a prefix: the tables belong to the whole database, and another program may have its jobs
    /// there.
    #[must_use]
    pub const fn stored(self) -> &'static str {
        match self {
            Self::ProcessClerkEvent => "usher:process-clerk-event",
            Self::SendMail => "usher:send-mail",
            Self::Periodic => "usher:periodic",
            Self::DeliverEvent1 => "usher:deliver-event-1",
            Self::DeliverEvent2 => "usher:deliver-event-2",
            Self::DeliverEvent3 => "usher:deliver-event-3",
            Self::DeliverEvent4 => "usher:deliver-event-4",
            Self::DeliverEvent5 => "usher:deliver-event-5",
            Self::DeliverEvent6 => "usher:deliver-event-6",
            Self::DeliverEvent7 => "usher:deliver-event-7",
            Self::DeliverEvent8 => "usher:deliver-event-8",
        }
    }

    /// The queue with this stored name, if it is one of usher's.
    #[must_use]
    pub fn of_stored(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|queue| queue.stored() == name)
    }

    /// The stored names of all queues, as JSON.
    pub(super) fn all_stored() -> Result<String> {
        to_json(&Self::ALL.iter().map(|queue| queue.stored()).collect::<Vec<_>>())
    }
}

/// apalis's own limit on attempts. usher's limit is [`Queue::MAX_ATTEMPTS`]. When a job reaches it, the failure is
/// stored first; if that failed, apalis's limit would leave the job neither runnable nor dead.
pub(super) const UNCOUNTED: i32 = i32::MAX;

/// What the trigger on `usher_outgoing_events` notifies.
const OUTGOING: &str = "usher_outgoing_events";

/// How long to wait before listening again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Wakes the workers of this process when a job was enqueued, and those who wait for outgoing events.
#[derive(Debug, Clone)]
pub struct Wake {
    queues: Arc<HashMap<Queue, watch::Sender<()>>>,
    /// An event was recorded.
    pub outgoing: watch::Sender<()>,
    /// An event got its number.
    pub numbered: watch::Sender<()>,
}

impl Default for Wake {
    fn default() -> Self {
        let signals = Queue::ALL.iter().map(|&queue| (queue, watch::Sender::new(())));
        Self {
            queues: Arc::new(signals.collect()),
            outgoing: watch::Sender::default(),
            numbered: watch::Sender::default(),
        }
    }
}

impl Wake {
    /// Wakes the workers of this queue.
    pub fn signal(&self, queue: Queue) {
        if let Some(signal) = self.queues.get(&queue) {
            signal.send_replace(());
        }
    }

    /// Receives all signals from now on.
    #[must_use]
    pub fn subscribe(&self, queue: Queue) -> Option<watch::Receiver<()>> {
        self.queues.get(&queue).map(watch::Sender::subscribe)
    }
}

/// The payload of apalis's trigger.
#[derive(Deserialize)]
struct Inserted {
    job_type: String,
}

row! {
    struct JobRow {
        job_id: String,
        payload: String,
    }
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
        let rows = JobRow::unfold(self.dialect());
        // The tables belong to apalis and differ in names and types. `run_at` is the database's now, because fetching
        // compares it with that clock. On Postgres `metadata` stays null: hstore would have to be on the search path.
        let text = match self.dialect() {
            Dialect::Postgres => format!(
                "insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
                 select r.job_id, $2, convert_to(r.payload, 'UTF8'), {NEW}, 0, $3, now(), 0 from {rows}"
            ),
            Dialect::Sqlite => format!(
                "insert into Jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, metadata)
                 select r.job_id, $2, cast(r.payload as blob), {NEW}, 0, $3, unixepoch(), 0, '{{}}' from {rows}"
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
            "update {} set {RELEASE} where id = $1 and {HELD}",
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

/// apalis on Postgres accepts only ULIDs; a UUIDv7 has the same layout.
pub(super) fn new_job_id(clock: &Clock) -> String {
    Ulid::from(clock.new_id()).to_string()
}

impl Store {
    pub async fn note_failure(&self, failure: &NewFailure<'_>) -> Result<()> {
        self.transaction(failure, |tx, failure| tx.note_failure(failure).boxed())
            .await
    }

    /// Returns a job to the queue untried, due at `due`, as if its worker had never fetched it. The acknowledgement
    /// that follows then finds no job of this worker, and no attempt is counted.
    pub async fn give_back_job(&self, job_id: &str, due: DateTime<Utc>) -> Result<()> {
        self.transaction(job_id, |tx, job_id| tx.release_job(job_id, due).boxed())
            .await
    }

    /// Listens for jobs that other processes enqueue, and wakes this process's workers. Never returns; on SQLite there
    /// are no notifications.
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
        // A pool of its own: a listener closes its connection without a timeout, so a lost one would keep its place in
        // the pool.
        let alone = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(super::ACQUIRE_TIMEOUT)
            .connect_lazy_with(pool.connect_options().as_ref().clone());
        let mut listener = PgListener::connect_with(&alone).await?;
        listener.listen_all(["apalis::job::insert", OUTGOING]).await?;
        loop {
            // Notifications that were sent while the connection was lost are not repeated.
            match listener.try_recv().await? {
                Some(notification) if notification.channel() == OUTGOING => {
                    self.wake.outgoing.send_replace(());
                }
                Some(notification) => {
                    let told = serde_json::from_str::<Inserted>(notification.payload()).ok();
                    if let Some(queue) = told.and_then(|told| Queue::of_stored(&told.job_type)) {
                        self.wake.signal(queue);
                    }
                }
                None => {
                    Queue::ALL.iter().for_each(|&queue| self.wake.signal(queue));
                    self.wake.outgoing.send_replace(());
                }
            }
        }
    }

    /// Updates the heartbeat of these workers. apalis's own heartbeat stops while a fetched batch waits for free slots
    /// (APALIS trap 3). If a worker holds a job for longer than its queue allows, its acknowledgement is waiting on a
    /// lost connection, and [`Store::losses`] notifies.
    pub async fn heartbeat(&self, workers: &[String], overdue: &[(Queue, Duration)]) -> Result<()> {
        let names = to_json(workers)?;
        let limits: HashMap<&str, u64> = overdue
            .iter()
            .map(|(queue, limit)| (queue.stored(), limit.as_secs()))
            .collect();
        let limits = serde_json::to_string(&limits).map_err(|error| sqlx::Error::Encode(error.into()))?;
        match &self.pool {
            Pool::Postgres(pool) => {
                // True for ten seconds each time the limit has passed: this runs every five seconds, and the worker is
                // soon replaced. A held job has the status `Queued`, because the second lock is switched off (APALIS
                // trap 24).
                let text = format!(
                    "with beating as (
                         update apalis.workers set last_seen = now()
                         where id in (select json_array_elements_text($1::text::json)) returning id
                     ), held as (
                         select extract(epoch from now() - lock_at)::bigint as seconds, overdue.value::bigint as most
                         from apalis.jobs join beating on beating.id = jobs.lock_by
                             join json_each_text($2::text::json) as overdue on overdue.key = jobs.job_type
                         where {HELD}
                     )
                     select exists (select from held where seconds >= most and seconds % most < 10)"
                );
                let is_overdue: bool = sqlx::query_scalar(sql(text))
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

    /// Marks these workers as stopped, as if last seen an hour ago, and releases the jobs that they hold; nothing of
    /// theirs may be running. A worker that stops or fails during a fetch leaves rows locked that it never saw; apalis
    /// does not release them.
    pub async fn retire_workers(&self, workers: &[String]) -> Result<()> {
        let names = to_json(workers)?;
        match &self.pool {
            Pool::Postgres(pool) => {
                let text = format!(
                    "with gone as (
                         update apalis.workers set last_seen = now() - interval '1 hour'
                         where id in (select json_array_elements_text($1::text::json)) returning id
                     )
                     update apalis.jobs set {RELEASE}, done_at = null, {COUNT_IF_STARTED}
                     from gone where lock_by = gone.id and {HELD}"
                );
                sqlx::query(sql(text)).bind(names).execute(pool).await?;
            }
            Pool::Sqlite { writer, .. } => {
                for text in [
                    "update Workers set last_seen = unixepoch() - 3600 where id in (select value from json_each($1))"
                        .to_owned(),
                    format!(
                        "update Jobs set {RELEASE}, done_at = null, {COUNT_IF_STARTED}
                         where {HELD} and lock_by in (select value from json_each($1))"
                    ),
                ] {
                    sqlx::query(sql(text)).bind(&names).execute(writer).await?;
                }
            }
        }
        for &queue in Queue::ALL {
            self.wake.signal(queue);
        }
        Ok(())
    }

    /// Recovers orphaned jobs: those of workers without a heartbeat for `limit` return to the queue with one more
    /// attempt. Returns how many. apalis's own recovery knows only the workers of one queue and, on SQLite, never its
    /// own name.
    ///
    /// Three times they are due at once. A job that is orphaned again and again may be what crashes its process. From
    /// then on it waits longer each time, from 20 s up to an hour, and with jitter, apart from the jobs that were
    /// orphaned with it. So it neither keeps the service down nor takes the other jobs with it.
    pub async fn recover_orphans(&self, limit: TimeDelta) -> Result<u64> {
        let queues = Queue::all_stored()?;
        let lost = format!(
            r#"update {} set {RELEASE}, attempts = attempts + 1, done_at = null,
                 last_result = '{{"Err": "its worker fell silent"}}'"#,
            dialect_sql(self.dialect()).table
        );
        let recovered = match &self.pool {
            Pool::Postgres(pool) => {
                let text = format!(
                    "with orphans as (
                         select jobs.id from apalis.jobs join apalis.workers on workers.id = jobs.lock_by
                         where {HELD} and workers.last_seen < now() - make_interval(secs => $1)
                           and jobs.job_type in (select json_array_elements_text($2::text::json))
                         for update of jobs skip locked
                     )
                     {lost},
                         run_at = case when attempts < 3 or attempts + 1 >= max_attempts then run_at else now() + make_interval(
                             secs => least(10 * (1 << least(attempts - 2, 9)), 3600) * (0.5 + random())) end
                     from orphans where jobs.id = orphans.id"
                );
                let recovery = sqlx::query(sql(text)).bind(limit.as_seconds_f64()).bind(queues);
                recovery.execute(pool).await?.rows_affected()
            }
            Pool::Sqlite { writer, .. } => {
                let text = format!(
                    "{lost},
                         run_at = case when attempts < 3 or attempts + 1 >= max_attempts then run_at else unixepoch()
                             + min(10 * (1 << min(attempts - 2, 9)), 3600) * (500 + abs(random() % 1000)) / 1000 end
                     where {HELD}
                       and lock_by in (select id from Workers where last_seen < unixepoch() - $1)
                       and job_type in (select value from json_each($2))"
                );
                let recovery = sqlx::query(sql(text)).bind(limit.num_seconds()).bind(queues);
                recovery.execute(writer).await?.rows_affected()
            }
        };
        if recovered > 0 {
            for &queue in Queue::ALL {
                self.wake.signal(queue);
            }
        }
        Ok(recovered)
    }
}
