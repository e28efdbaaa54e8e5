//! The workers: apalis fetches and acknowledges jobs. Each flaw of its defaults is fixed here, one file per fix.

mod attempt;
mod finish;
mod heartbeat;
mod payload;
mod poll;
mod schedule;
mod supervise;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use attempt::{Failure, run_attempt};
pub use schedule::tick;
pub use supervise::Alive;

use crate::app::App;
use crate::config::{self, Config};
use crate::events;
use crate::jobs::{Context, DeliverEvent, Job as _, Periodic, ProcessClerkEvent, SendMail, run_circuit_breaker};
use crate::store::{PoolName, Queue};
use heartbeat::Names;
use supervise::{Supervised, supervise};

/// How many jobs of one queue run at once in this process. apalis fetches half as many at a time, so that one half runs
/// while the next is fetched, and never more: a fetched job that waits for a free slot stops its worker's heartbeats
/// (APALIS trap 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// Events from Clerk. They share transactions, so many at once are cheap.
    pub events: usize,
    /// Mails. They are loaded and updated in batches; only a few are sent at the same moment.
    pub mails: usize,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            events: 512,
            mails: 512,
        }
    }
}

impl Concurrency {
    /// For how many seconds of `SMTP_RATE` a process holds mails; the rest is left to other processes.
    const AHEAD: usize = 10;

    #[must_use]
    pub fn of(config: &Config) -> Self {
        let usual = Self::default();
        let held = |rate: NonZeroU32| {
            usize::try_from(rate.get())
                .unwrap_or(usize::MAX)
                .saturating_mul(Self::AHEAD)
        };
        Self {
            mails: config.smtp_rate.map_or(usual.mails, |rate| held(rate).min(usual.mails)),
            ..usual
        }
    }
}

/// Concurrent jobs of the queue `periodic`.
const PERIODIC: usize = 2;
/// Concurrent deliveries to one endpoint. Most of the time of each is spent waiting for a batch.
const DELIVERIES: usize = 128;
/// How long running jobs may take to finish after a stop. Orchestrators kill after 30 seconds.
const GRACE: Duration = Duration::from_secs(20);
/// How long to wait for the database after that.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Workers {
    app: App,
    names: Arc<Names>,
    alive: Alive,
    tasks: TaskTracker,
    soft: CancellationToken,
    hard: CancellationToken,
    heartbeat: AbortOnDropHandle<()>,
    still: CancellationToken,
}

impl Workers {
    /// Starts a worker for each queue, their heartbeat, and the listener for new jobs.
    #[must_use]
    pub fn start(app: &App, concurrency: Concurrency) -> Self {
        let app = &App {
            store: app.store.with_pool(PoolName::Jobs),
            ..app.clone()
        };
        let names = Arc::new(Names::new(config::process_name()));
        let still = CancellationToken::new();
        // Not among the tasks that a stop waits for: the heartbeat continues until the last of them has ended.
        let beat = heartbeat::beat(app.store.with_pool(PoolName::Health), Arc::clone(&names), still.clone());
        let context = Context::start(app.clone());
        let workers = Self {
            app: app.clone(),
            names,
            alive: Alive::default(),
            tasks: TaskTracker::new(),
            soft: context.stopping.clone(),
            hard: CancellationToken::new(),
            heartbeat: AbortOnDropHandle::new(tokio::spawn(beat)),
            still,
        };
        workers.start_queues(&context, concurrency);
        let (pauses, health, soft) = (
            Arc::clone(&context.pauses),
            app.store.with_pool(PoolName::Health),
            workers.soft.clone(),
        );
        let (throughput, counted, end) = (Arc::clone(&context.throughput), health.clone(), soft.clone());
        workers.tasks.spawn(async move { pauses.keep(&health, soft).await });
        workers.tasks.spawn(async move { throughput.keep(&counted, end).await });
        workers.tasks.spawn(run_circuit_breaker(context, workers.soft.clone()));
        let (store, soft) = (app.store.clone(), workers.soft.clone());
        workers.tasks.spawn(async move {
            soft.run_until_cancelled(store.relay_notifications()).await;
        });
        workers.tasks.spawn(schedule::keep(app.clone(), workers.soft.clone()));
        workers.tasks.close();
        workers
    }

    fn start_queues(&self, context: &Context, concurrency: Concurrency) {
        let supervised = |queue, concurrency| Supervised {
            context: context.clone(),
            queue,
            names: Arc::clone(&self.names),
            alive: self.alive.clone(),
            concurrency,
            tasks: self.tasks.clone(),
            soft: self.soft.clone(),
            hard: self.hard.clone(),
        };
        let (events, mails) = (concurrency.events, concurrency.mails);
        self.tasks.spawn(supervise::<ProcessClerkEvent>(supervised(
            ProcessClerkEvent::QUEUE,
            events,
        )));
        self.tasks
            .spawn(supervise::<SendMail>(supervised(SendMail::QUEUE, mails)));
        self.tasks
            .spawn(supervise::<Periodic>(supervised(Periodic::QUEUE, PERIODIC)));
        self.tasks
            .spawn(tell_the_app(supervised(Queue::DeliverEvent1, DELIVERIES)));
    }

    #[must_use]
    pub fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Stops fetching, waits for running jobs, and cancels those that take too long. Then unregisters the workers, so
    /// that other processes recover the remaining jobs at once. Returns even if the database does not answer.
    pub async fn stop(self) {
        self.soft.cancel();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "jobs still running after the shutdown timeout of {} s; they will run again",
                GRACE.as_secs()
            );
            self.hard.cancel();
        }
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.unregister()).await.is_err() {
            tracing::warn!(
                "could not unregister the workers: the database did not answer; their jobs are recovered in about 20 s"
            );
        }
    }

    /// The heartbeat continues until no job is running here, so that none is started elsewhere.
    async fn unregister(self) {
        self.tasks.wait().await;
        self.still.cancel();
        if let Err(error) = self.heartbeat.await {
            tracing::error!(error = %error, "the worker heartbeat ended unexpectedly");
        }
        let (store, names) = (&self.app.store, self.names.beating());
        let goodbye = store.retire_workers(&names);
        if let Err(error) = store.with_timeout(heartbeat::INTERVAL, goodbye).await {
            tracing::warn!(error = %error, "could not unregister the workers; their jobs are recovered in about 20 s");
        }
    }
}

/// Registers the endpoints, starts a worker for the queue of each, and gives numbers to events until cancelled.
async fn tell_the_app(with: Supervised) {
    let app = with.context.app.clone();
    let Some(endpoints) = with.soft.run_until_cancelled(events::register_until_done(&app)).await else {
        return;
    };
    for queue in endpoints.iter().filter_map(|endpoint| endpoint.queue()) {
        let with = Supervised { queue, ..with.clone() };
        with.tasks.clone().spawn(supervise::<DeliverEvent>(with));
    }
    with.soft.run_until_cancelled(events::keep_numbering(&app)).await;
}
