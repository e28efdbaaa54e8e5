//! How many jobs of each queue end per minute: counted in this process, and added to the database every few seconds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::store::{EndedJobs, Queue, Store, StoreError};

const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// The timeout of adding them.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What ended since the last flush: done and failed.
#[derive(Default)]
pub struct Throughput(Mutex<HashMap<Queue, (u32, u32)>>);

impl Throughput {
    /// Counts an attempt that ended.
    pub fn count(&self, queue: Queue, is_done: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, failed) = all.entry(queue).or_default();
        *if is_done { done } else { failed } += 1;
    }

    /// Adds them to the database until cancelled, and once more.
    pub async fn keep(&self, store: &Store, stop: CancellationToken) {
        let mut flushes = tokio::time::interval(FLUSH_INTERVAL);
        flushes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(flushes.tick()).await.is_some() {
            self.flush(store).await;
        }
        self.flush(store).await;
    }

    /// What can't be added is lost: it is a picture for people, and no count that anything relies on.
    async fn flush(&self, store: &Store) {
        let ended = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if ended.is_empty() {
            return;
        }
        let rows: Vec<EndedJobs> = ended
            .into_iter()
            .map(|(queue, (done, failed))| EndedJobs { queue, done, failed })
            .collect();
        if let Err(error) = store.with_timeout(FLUSH_TIMEOUT, add(store, rows)).await {
            tracing::debug!(error = %error, "could not add the jobs of the last seconds to those per minute");
        }
    }
}

async fn add(store: &Store, rows: Vec<EndedJobs>) -> Result<(), StoreError> {
    store
        .transaction(rows, |tx, rows| tx.add_ended_jobs(rows).boxed())
        .await
}
