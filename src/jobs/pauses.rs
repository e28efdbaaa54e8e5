//! Which queues are paused. Every process reads it from the database every few seconds.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{Queue, Store, StoreError};

/// How soon this process notices that a queue was paused or resumed.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The timeout of reading them.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);

/// The paused queues as far as this process knows; `None` before they are known.
pub struct Pauses(watch::Sender<Option<HashSet<Queue>>>);

impl Default for Pauses {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Pauses {
    /// Waits until the queue is paused (`true`) or known not to be (`false`).
    pub async fn wait_until_paused(&self, queue: Queue, paused: bool) {
        let mut known = self.0.subscribe();
        let is_so = |known: &Option<HashSet<Queue>>| known.as_ref().is_some_and(|all| all.contains(&queue) == paused);
        // The sender lives as long as `self`.
        let _ = known.wait_for(is_so).await;
    }

    /// Whether it is known to be paused.
    #[must_use]
    pub fn is_paused(&self, queue: Queue) -> bool {
        self.0.borrow().as_ref().is_some_and(|all| all.contains(&queue))
    }

    /// Keeps them up to date until cancelled.
    pub async fn keep(&self, store: &Store, stop: CancellationToken) {
        let mut polls = tokio::time::interval(POLL_INTERVAL);
        polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(polls.tick()).await.is_some() {
            match store.with_timeout(POLL_TIMEOUT, paused(store)).await {
                Ok(paused) => drop(self.0.send_if_modified(|known| {
                    let is_news = known.as_ref() != Some(&paused);
                    *known = Some(paused);
                    is_news
                })),
                Err(error) => tracing::warn!(error = %error, "could not read which queues are paused; retrying"),
            }
        }
    }
}

async fn paused(store: &Store) -> Result<HashSet<Queue>, StoreError> {
    let paused = store.read().await?.paused_queues().await?;
    Ok(paused.into_iter().map(|row| row.queue).collect())
}
