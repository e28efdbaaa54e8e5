//! The workers: apalis fetches and acknowledges, and everything that its defaults get wrong is cured here, one file per
//! cure.

mod attempt;
mod back_off;
mod heartbeat;
mod payload;
mod poll;
mod supervise;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use attempt::{Failure, run_attempt};
pub use supervise::Alive;

use crate::app::App;
use crate::config;
use crate::jobs::{Context, ProcessClerkEvent, SendAcceptedNotice, SendInviteEmail};
use heartbeat::Names;
use supervise::{Supervised, supervise};

/// Jobs of one queue that run at once in this process. apalis fetches no more than that in one go: a fetched job that
/// waits for a free slot stops its worker's heartbeats (APALIS trap 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// Events from Clerk. They share transactions, so many at once are cheap.
    pub events: usize,
    /// Mails, and notices.
    pub mails: usize,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { events: 256, mails: 16 }
    }
}

/// How long running jobs may finish when the process shall stop. Orchestrators kill after 30 seconds.
const GRACE: Duration = Duration::from_secs(20);

/// The workers of this process.
pub struct Workers {
    tasks: TaskTracker,
    names: Arc<Names>,
    app: App,
    soft: CancellationToken,
    hard: CancellationToken,
    alive: Alive,
}

impl Workers {
    /// Starts a worker for each queue, their heartbeat, and the ear for new jobs.
    #[must_use]
    pub fn start(app: &App, concurrency: Concurrency) -> Self {
        let context = Context::start(app.clone());
        let workers = Self {
            tasks: TaskTracker::new(),
            names: Arc::new(Names::new(config::process_name())),
            app: app.clone(),
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            alive: Alive::default(),
        };
        let supervised = |concurrency| Supervised {
            context: context.clone(),
            names: Arc::clone(&workers.names),
            alive: workers.alive.clone(),
            concurrency,
            soft: workers.soft.clone(),
        };
        workers.spawn(supervise::<ProcessClerkEvent>(supervised(concurrency.events)));
        workers.spawn(supervise::<SendInviteEmail>(supervised(concurrency.mails)));
        workers.spawn(supervise::<SendAcceptedNotice>(supervised(concurrency.mails)));
        workers.spawn(heartbeat::beat(
            app.store.clone(),
            Arc::clone(&workers.names),
            workers.soft.clone(),
        ));
        let (store, soft) = (app.store.clone(), workers.soft.clone());
        workers.spawn(async move {
            soft.run_until_cancelled(store.relay_notifications()).await;
        });
        workers.tasks.close();
        workers
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let hard = self.hard.clone();
        self.tasks.spawn(async move {
            hard.run_until_cancelled(task).await;
        });
    }

    /// Which queues have a live worker.
    #[must_use]
    pub fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Takes no more work, lets what runs finish, cuts off what takes too long; then says goodbye, so that whatever was
    /// left is taken up at once by others.
    pub async fn stop(self) {
        self.soft.cancel();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!("jobs still ran after {} s; they will be run again", GRACE.as_secs());
            self.hard.cancel();
            self.tasks.wait().await;
        }
        if let Err(error) = self.app.store.retire_workers(&self.names.all()).await {
            tracing::warn!(error = %error, "could not say goodbye; what was left will be taken up a little later");
        }
    }
}
