//! A heartbeat of our own, independent of apalis's poll loop (APALIS trap 3), and the recovery of orphaned jobs (trap
//! 4).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use crate::jobs::{DeliverEvent, Job, Periodic, ProcessClerkEvent, SendMail};
use crate::store::{Queue, Store};

pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// After this many missed heartbeats a worker counts as dead: 20 seconds, so that its jobs run elsewhere within 30.
pub(super) const MISSED: u32 = 4;

/// How long a job may be held in addition to its attempt: it waits for a free slot before the attempt, and for its
/// acknowledgement after it.
const LATE: Duration = Duration::from_secs(600);

/// The names of this process's workers: unique for each start of a process and of a worker (APALIS trap 2).
pub(super) struct Names {
    process: String,
    count: AtomicUsize,
    beating: Mutex<Vec<String>>,
}

impl Names {
    pub(super) fn new(process: String) -> Self {
        Self {
            process,
            count: AtomicUsize::new(0),
            beating: Mutex::default(),
        }
    }

    /// A name that was never used before; it gets heartbeats until it is released.
    pub(super) fn take(&self, queue: Queue) -> String {
        let name = format!(
            "{}-{queue}-{}",
            self.process,
            self.count.fetch_add(1, Ordering::Relaxed)
        );
        self.beating
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(name.clone());
        name
    }

    /// Ends the heartbeats of a worker that has ended. Jobs that it fetched but did not start, or finished but did not
    /// acknowledge, are then recovered like other orphans; with heartbeats they would stay locked.
    pub(super) fn release(&self, name: &str) {
        self.beating
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|beating| beating != name);
    }

    /// The names with heartbeats.
    pub(super) fn beating(&self) -> Vec<String> {
        self.beating.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How long a job of a queue may be held. After that its attempt has ended, and its acknowledgement waits for an answer
/// that does not come.
fn overdue_after(queue: Queue) -> Duration {
    let attempt = match queue {
        Queue::ProcessClerkEvent => ProcessClerkEvent::TIME_LIMIT,
        Queue::SendMail => SendMail::TIME_LIMIT,
        Queue::Periodic => Periodic::TIME_LIMIT,
        Queue::DeliverEvent1
        | Queue::DeliverEvent2
        | Queue::DeliverEvent3
        | Queue::DeliverEvent4
        | Queue::DeliverEvent5
        | Queue::DeliverEvent6
        | Queue::DeliverEvent7
        | Queue::DeliverEvent8 => DeliverEvent::TIME_LIMIT,
    };
    attempt + LATE
}

/// Runs until cancelled.
pub(super) async fn beat(store: Store, names: Arc<Names>, stop: CancellationToken) {
    let limit = TimeDelta::from_std(INTERVAL * MISSED).unwrap_or(TimeDelta::MAX);
    let overdue = Queue::ALL
        .iter()
        .map(|&queue| (queue, overdue_after(queue)))
        .collect::<Vec<_>>();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = store
            .with_timeout(INTERVAL, store.heartbeat(&names.beating(), &overdue))
            .await
        {
            tracing::warn!(error = %error, "the worker heartbeat failed");
            // Finds out whether the server is read-only; if so, its open sessions are not used again.
            let _ = store.ping().await;
            continue;
        }
        match store.with_timeout(INTERVAL, store.recover_orphans(limit)).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(
                jobs = count,
                "recovered the orphaned jobs of workers without a heartbeat"
            ),
            Err(error) => tracing::warn!(error = %error, "could not recover orphaned jobs"),
        }
    }
}
