//! A heartbeat of our own, independent of apalis's poll loop (APALIS trap 3), and the sweep that gives the jobs of the
//! silent to others (trap 4).

use std::sync::Mutex;
use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use crate::store::{Queue, Store};

/// Between two heartbeats.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// After so many missed ones a worker counts as dead: 20 seconds, so that its jobs run elsewhere within 30.
pub(super) const MISSED: u32 = 4;

/// The names of this process's workers: unique to each start of each process and of each worker (APALIS trap 2).
pub(super) struct Names {
    process: String,
    taken: Mutex<Vec<String>>,
}

impl Names {
    pub(super) fn new(process: String) -> Self {
        Self {
            process,
            taken: Mutex::default(),
        }
    }

    /// A name that was never used before.
    pub(super) fn take(&self, queue: Queue) -> String {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = format!("{}-{queue}-{}", self.process, taken.len());
        taken.push(name.clone());
        name
    }

    /// All that were taken, also by workers that have ended: their jobs may still run in tasks of their own.
    pub(super) fn all(&self) -> Vec<String> {
        self.taken
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

/// Beats until cancelled.
pub(super) async fn beat(store: Store, names: std::sync::Arc<Names>, soft: CancellationToken) {
    let limit = TimeDelta::from_std(INTERVAL * MISSED).unwrap_or(TimeDelta::MAX);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while soft.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = store.heartbeat(&names.all()).await {
            tracing::warn!(error = %error, "the heartbeat failed");
            continue;
        }
        match store.recover_orphans(limit).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(jobs = count, "took up the jobs of workers that fell silent"),
            Err(error) => tracing::warn!(error = %error, "could not look for orphaned jobs"),
        }
    }
}
