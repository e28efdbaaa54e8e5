//! From a verified request to a committed row: concurrent events share one transaction.

use std::collections::HashSet;

use crate::batch::{BATCH_TIMEOUT, BatchError, BatchHandler, Batcher, Locks};
use crate::store::{Dialect, NewEvent, PoolName, Store, StoreError};

/// The maximum number of events per transaction. At 256 KiB each this also bounds the memory of a batch.
const MAX_BATCH_SIZE: usize = 256;
/// Postgres writes one batch's commit to disk while it works on the next; SQLite has one writer anyway.
const LANES_ON_POSTGRES: usize = 3;

/// Stores events and answers each after the commit that contains it.
#[derive(Clone)]
pub struct Intake(Batcher<NewEvent, Receipt>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// Stored and queued.
    Queued,
    /// Its id was known; nothing was done.
    Duplicate,
}

impl Intake {
    #[must_use]
    pub fn start(store: Store) -> Self {
        let store = store.with_pool(PoolName::Intake);
        let workers = match store.dialect() {
            Dialect::Postgres => LANES_ON_POSTGRES,
            Dialect::Sqlite => 1,
        };
        Self(Batcher::start(workers, MAX_BATCH_SIZE, Receive(store)))
    }

    /// Stores an event and enqueues its job; returns after the commit.
    ///
    /// # Errors
    /// [`BatchError`]; repeating is safe: an event is never stored twice.
    pub async fn receive(&self, event: NewEvent) -> Result<Receipt, BatchError> {
        self.0.submit(event).await
    }
}

/// One statement each, on connections of its own. It uses only the inbox and the queue, which belong to usher, so the
/// only lock that it can hit is that of another batch with an id in common.
struct Receive(Store);

impl BatchHandler<NewEvent, Receipt> for Receive {
    async fn commit(&self, events: &[NewEvent], _: Locks) -> Result<Vec<Receipt>, StoreError> {
        let new = self
            .0
            .with_timeout(BATCH_TIMEOUT, self.0.receive_events(events))
            .await?;
        Ok(receipts(events, new))
    }
}

/// Of two events with the same id in a batch, the first is the new one.
fn receipts(events: &[NewEvent], mut new: HashSet<String>) -> Vec<Receipt> {
    let receipt = |event: &NewEvent| {
        if new.remove(&event.svix_id) {
            Receipt::Queued
        } else {
            Receipt::Duplicate
        }
    };
    events.iter().map(receipt).collect()
}
