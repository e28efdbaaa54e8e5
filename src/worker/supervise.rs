//! Keeps a worker per queue alive: a database error ends apalis's worker, and its own restarts have no back-off
//! (APALIS trap 16).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apalis::layers::WorkerBuilderExt as _;
use apalis::prelude::{AbortError, Attempt, BoxDynError, Data, TaskId, WorkerBuilder, WorkerError};
use apalis_core::backend::ext::poll_strategy::{PollWith, Strategy};
use apalis_core::backend::ext::with_codec::WithCodec;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt::{Failure, run_attempt};
use super::heartbeat::{INTERVAL, MISSED, Names};
use super::payload::{RawPayload, Verbatim};
use super::poll::{Signalled, Tick};
use crate::jobs::{Context, Job};
use crate::store::{Pool, Queue};

/// How soon jobs are noticed whose time comes later.
const TICK: Duration = Duration::from_secs(1);
/// The first wait before a worker is started again, doubled up to the last.
const RESTART: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Whoever ran so long starts with the first wait again.
const STEADY: Duration = Duration::from_secs(60);

/// Which queues have a live worker in this process.
#[derive(Debug, Clone, Default)]
pub struct Alive(Arc<Mutex<HashSet<Queue>>>);

impl Alive {
    /// Whether every queue has one.
    #[must_use]
    pub fn all(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() == Queue::ALL.len()
    }

    fn set(&self, queue: Queue, alive: bool) {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if alive {
            queues.insert(queue);
        } else {
            queues.remove(&queue);
        }
    }
}

/// What a supervised worker is given.
#[derive(Clone)]
pub(super) struct Supervised {
    pub context: Context,
    pub names: Arc<Names>,
    pub alive: Alive,
    pub concurrency: usize,
    pub soft: CancellationToken,
}

/// Runs a worker for `J` until cancelled, starting it again whenever it ends by itself.
pub(super) async fn supervise<J: Job>(with: Supervised) {
    let mut wait = RESTART.0;
    while !with.soft.is_cancelled() {
        let started = Instant::now();
        let name = with.names.take(J::QUEUE);
        with.alive.set(J::QUEUE, true);
        // A task of its own: a panic in apalis is one more reason to start again.
        let ended = tokio::spawn(run_worker::<J>(with.clone(), name)).await;
        with.alive.set(J::QUEUE, false);
        if with.soft.is_cancelled() {
            return;
        }
        let why = match ended {
            Ok(Ok(())) => "it ended by itself".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        if started.elapsed() > STEADY {
            wait = RESTART.0;
        }
        tracing::error!(
            job.queue = J::QUEUE.as_str(),
            "the worker for {} stopped: {why}; starting it again",
            J::QUEUE
        );
        with.soft.run_until_cancelled(tokio::time::sleep(wait)).await;
        wait = (wait * 2).min(RESTART.1);
    }
}

/// The two backends share their configuration's names, and no type.
macro_rules! run_on {
    ($storage:ident, $config:path, $pool:expr, $with:expr, $name:expr) => {{
        let config = <$config>::default()
            .queue(J::QUEUE.as_str())
            .batch_size($with.concurrency)
            .heartbeat_interval(INTERVAL)
            .missed_heartbeats(MISSED as usize);
        let mut strategy = Strategy::new().apply(Tick::new(TICK));
        if let Some(signals) = $with.context.app.store.wake.subscribe(J::QUEUE) {
            strategy = strategy.apply(Signalled::new(signals));
        }
        let storage = $storage::<RawPayload>::new($pool).with_config(config);
        let soft = $with.soft.clone();
        WorkerBuilder::new($name)
            .backend(PollWith::new(WithCodec::new(storage, Verbatim), strategy))
            .data($with.context)
            .concurrency($with.concurrency)
            .build(handle::<J>)
            .run_until(async move {
                soft.cancelled().await;
                Ok::<(), WorkerError>(())
            })
            .await
    }};
}

async fn run_worker<J: Job>(with: Supervised, name: String) -> Result<(), WorkerError> {
    match with.context.app.store.pool.clone() {
        Pool::Postgres(pool) => run_on!(PostgresStorage, apalis_postgres::Config, &pool, with, name),
        Pool::Sqlite { writer, .. } => run_on!(SqliteStorage, apalis_sqlite::Config, &writer, with, name),
    }
}

/// Translates an attempt for apalis: `AbortError` kills the job (APALIS trap 7), any other error keeps it.
async fn handle<J: Job>(
    payload: RawPayload,
    context: Data<Context>,
    id: TaskId,
    attempt: Attempt,
) -> Result<(), BoxDynError> {
    let number = u32::try_from(attempt.current()).unwrap_or(u32::MAX);
    // A task of its own: all handlers of a worker share one (APALIS trap 17).
    let attempt = tokio::spawn(async move { run_attempt::<J>(&context, &payload.0, &id.to_string(), number).await });
    match attempt.await? {
        Ok(()) => Ok(()),
        Err(failure @ Failure::Later(_)) => Err(failure.into()),
        Err(failure @ Failure::Dead(_)) => Err(AbortError::new(failure).into()),
    }
}
