//! Keeps one worker per queue alive: a database error ends apalis's worker, and apalis's own restarts have no back-off
//! (APALIS trap 16).

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apalis::layers::WorkerBuilderExt as _;
use apalis::prelude::{AbortError, Attempt, BoxDynError, Data, FromRequest, Task, TaskId, WorkerBuilder, WorkerError};
use apalis_core::backend::ext::poll_strategy::{PollWith, Strategy};
use apalis_core::backend::ext::with_codec::WithCodec;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use ulid::Ulid;

use super::attempt::{Failure, run_attempt};
use super::finish::Finishing;
use super::heartbeat::{INTERVAL, Names};
use super::payload::{RawPayload, Verbatim};
use super::poll::{Signalled, Tick};
use crate::jobs::{Context, Job};
use crate::metrics;
use crate::store::{Pool, Queue};

/// apalis's own recovery would run orphaned jobs at once, and again and again (APALIS trap 8). With this limit
/// `Store::recover_orphans` finds them hours before.
const NEVER: usize = 10_000;
/// How often to check for jobs that become due later.
const TICK: Duration = Duration::from_secs(1);
/// The first and the maximum wait before a worker is restarted; it doubles each time.
const RESTART: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// After a worker ran for this long, the wait starts again at the first one.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// The queues that this process works on, and whether their worker is alive.
#[derive(Debug, Clone)]
pub struct Alive(Arc<Mutex<HashMap<Queue, bool>>>);

impl Default for Alive {
    /// Queues of endpoints are added when their workers start.
    fn default() -> Self {
        let fixed = Queue::ALL.iter().filter(|queue| !Queue::DELIVERIES.contains(queue));
        Self(Arc::new(Mutex::new(fixed.map(|&queue| (queue, false)).collect())))
    }
}

impl Alive {
    #[must_use]
    pub fn all(&self) -> bool {
        self.missing().is_empty()
    }

    #[must_use]
    pub fn missing(&self) -> Vec<Queue> {
        let alive = self.all_queues();
        alive
            .into_iter()
            .filter(|(_, alive)| !alive)
            .map(|(queue, _)| queue)
            .collect()
    }

    /// Each queue that this process works on, and whether its worker is alive.
    #[must_use]
    pub fn all_queues(&self) -> Vec<(Queue, bool)> {
        let alive = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |queue: &Queue| alive.get(queue).map(|&alive| (*queue, alive));
        Queue::ALL.iter().filter_map(of).collect()
    }

    fn set(&self, queue: Queue, alive: bool) {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.insert(queue, alive);
    }
}

#[derive(Clone)]
pub(super) struct Supervised {
    pub context: Context,
    pub names: Arc<Names>,
    pub alive: Alive,
    pub queue: Queue,
    pub concurrency: usize,
    /// The tasks that a stop waits for.
    pub tasks: TaskTracker,
    /// Stops fetching.
    pub soft: CancellationToken,
    /// Cancels running jobs.
    pub hard: CancellationToken,
}

/// The tasks of a worker's attempts. They are tasks of their own, because all handlers of a worker share one task
/// (APALIS trap 17). They outlive the worker until they are cancelled.
#[derive(Debug, Clone)]
struct Attempts {
    queue: Queue,
    tasks: TaskTracker,
    hard: CancellationToken,
}

/// Runs a worker for `J` until cancelled, and restarts it when it ends.
pub(super) async fn supervise<J: Job>(with: Supervised) {
    let mut wait = RESTART.0;
    while !with.soft.is_cancelled() {
        let started = Instant::now();
        // A worker that waits for the circuit breaker, or whose queue is paused, counts as alive.
        with.alive.set(with.queue, true);
        if with
            .soft
            .run_until_cancelled(until_wanted::<J>(&with.context, with.queue))
            .await
            .is_none()
        {
            return;
        }
        let name = with.names.take(with.queue);
        let attempts = Attempts {
            queue: with.queue,
            tasks: TaskTracker::new(),
            hard: with.hard.clone(),
        };
        let unwanted = CancellationToken::new();
        let mut losses = with.context.app.store.losses();
        // A task of its own: after a panic in apalis the worker is restarted, too.
        let worker = AbortOnDropHandle::new(tokio::spawn(run_worker::<J>(
            with.clone(),
            name.clone(),
            attempts.clone(),
            unwanted.clone(),
        )));
        let until_lost = async {
            tokio::select! {
                ended = worker => ended.map_err(|panic| panic.to_string()),
                // apalis waits without a timeout for its next jobs and for its acknowledgements.
                Ok(()) = losses.changed() => Err("the connection to the database was lost".to_owned()),
            }
        };
        let ended = with.hard.run_until_cancelled(until_lost).await;
        // Even if it is wanted again now, that is no failure.
        let is_unwanted = unwanted.is_cancelled() && matches!(ended, Some(Ok(Ok(()))));
        with.alive.set(with.queue, is_unwanted);
        attempts.tasks.close();
        let Some(ended) = ended.filter(|_| !with.soft.is_cancelled()) else {
            attempts.tasks.wait().await;
            return;
        };
        with.tasks.spawn(abandon(with.clone(), name, attempts));
        if is_unwanted {
            with.soft.run_until_cancelled(tokio::time::sleep(RESTART.0)).await;
            continue;
        }
        let why = match ended {
            Ok(Ok(())) => "it ended by itself".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(why) => why,
        };
        if started.elapsed() > STABLE_AFTER {
            wait = RESTART.0;
        }
        tracing::error!(
            job.queue = with.queue.as_str(),
            "the worker for queue {} stopped: {why}; restarting it",
            with.queue
        );
        with.soft.run_until_cancelled(tokio::time::sleep(wait)).await;
        wait = (wait * 2).min(RESTART.1);
    }
}

/// Waits until jobs of this kind may run.
async fn until_wanted<J: Job>(context: &Context, queue: Queue) {
    loop {
        context.pauses.wait_until_paused(queue, false).await;
        if !J::IS_MAIL {
            return;
        }
        context.breaker.wait_until_open(false).await;
        if !context.pauses.is_paused(queue) {
            return;
        }
    }
}

/// Waits until jobs of this kind must stay in the queue.
async fn until_unwanted<J: Job>(context: &Context, queue: Queue) {
    let refused = async {
        if J::IS_MAIL {
            context.breaker.wait_until_open(true).await;
        } else {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = refused => {}
        () = context.pauses.wait_until_paused(queue, true) => {}
    }
}

/// Retires a worker that has ended, after the last of its attempts.
async fn abandon(with: Supervised, name: String, attempts: Attempts) {
    attempts.tasks.wait().await;
    with.names.release(&name);
    // This only saves time: other processes would notice the missing heartbeat.
    let store = &with.context.app.store;
    if let Err(error) = store.with_timeout(INTERVAL, store.retire_workers(&[name])).await {
        tracing::debug!(error = %error, "could not unregister a worker");
    }
}

/// A macro, because the two backends have the same configuration methods but no common trait.
macro_rules! run_on {
    ($storage:ident, $config:path, $pool:expr, $with:expr, $name:expr, $attempts:expr, $unwanted:expr) => {{
        let config = <$config>::default()
            .queue($with.queue.stored())
            .batch_size($with.concurrency.div_ceil(2))
            .heartbeat_interval(INTERVAL)
            .missed_heartbeats(NEVER)
            // The fetch has already locked the job. A second update when it starts would add nothing: a job is held or
            // it is not.
            .lock_tasks(false);
        let mut strategy = Strategy::new().apply(Tick::new(TICK));
        if let Some(signals) = $with.context.app.store.wake.subscribe($with.queue) {
            strategy = strategy.apply(Signalled::new(signals));
        }
        let storage = $storage::<RawPayload>::new($pool).with_config(config);
        let (backend, shared) = Finishing::new(PollWith::new(WithCodec::new(storage, Verbatim), strategy));
        // Dropped with this worker.
        let _finishing = AbortOnDropHandle::new(tokio::spawn(shared.finish()));
        let (soft, context, queue) = ($with.soft.clone(), $with.context.clone(), $with.queue);
        WorkerBuilder::new($name)
            .backend(backend)
            .data($with.context)
            .data($attempts)
            .concurrency($with.concurrency)
            .build(handle::<J>)
            .run_until(async move {
                if soft.run_until_cancelled(until_unwanted::<J>(&context, queue)).await.is_some() {
                    $unwanted.cancel();
                }
                Ok::<(), WorkerError>(())
            })
            .await
    }};
}

/// `unwanted` is cancelled when it ends because its jobs must stay in the queue.
async fn run_worker<J: Job>(
    with: Supervised,
    name: String,
    attempts: Attempts,
    unwanted: CancellationToken,
) -> Result<(), WorkerError> {
    match with.context.app.store.pool.clone() {
        Pool::Postgres(pool) => run_on!(
            PostgresStorage,
            apalis_postgres::Config,
            &pool,
            with,
            name,
            attempts,
            unwanted
        ),
        Pool::Sqlite { writer, .. } => run_on!(
            SqliteStorage,
            apalis_sqlite::Config,
            &writer,
            with,
            name,
            attempts,
            unwanted
        ),
    }
}

/// When a job was due, in whole Unix seconds.
struct Due(Option<u64>);

impl<Args: Sync> FromRequest<Task<Args>> for Due {
    type Error = Infallible;

    async fn from_request(task: &Task<Args>) -> Result<Self, Infallible> {
        Ok(Self(task.run_at()))
    }
}

impl Due {
    /// How long ago the job was due. For a new job its id has the time in milliseconds.
    fn waited(&self, job_id: &str, now: DateTime<Utc>) -> Duration {
        let born = Ulid::from_string(job_id).map_or(0, |id| id.timestamp_ms());
        let due = self.0.unwrap_or(0).saturating_mul(1000).max(born);
        let now = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        Duration::from_millis(now.saturating_sub(due))
    }
}

/// Translates the result for apalis: `AbortError` kills the job (APALIS trap 7), any other error keeps it.
async fn handle<J: Job>(
    payload: RawPayload,
    context: Data<Context>,
    attempts: Data<Attempts>,
    id: TaskId,
    due: Due,
    attempt: Attempt,
) -> Result<(), BoxDynError> {
    let number = u32::try_from(attempt.current()).unwrap_or(u32::MAX);
    let (queue, hard) = (attempts.queue, attempts.hard.clone());
    let attempt = attempts.tasks.spawn(async move {
        let id = id.to_string();
        metrics::job_started(queue.as_str(), due.waited(&id, context.app.clock.now()));
        hard.run_until_cancelled(run_attempt::<J>(&context, queue, &payload.0, &id, number))
            .await
    });
    match attempt.await? {
        Some(Ok(())) => Ok(()),
        Some(Err(failure @ Failure::Dead(_))) => Err(AbortError::new(failure).into()),
        Some(Err(failure @ Failure::Later(_))) => Err(failure.into()),
        None => Err("it was cut off".into()),
    }
}
