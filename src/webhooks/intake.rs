//! From a verified request to a committed row: concurrent events share one transaction.

use std::collections::HashSet;

use crate::batch::{BATCH_TIMEOUT, BatchError, BatchHandler, Batcher, Locks};
use crate::store::{Dialect, Door, NewEvent, Store, StoreError};

/// Events in one transaction at most. At 256 KiB each this also bounds the memory of a group.
const MAX_BATCH_SIZE: usize = 256;
/// Postgres writes one group's commit to disk while it works on the next; SQLite has one writer anyway.
const LANES_ON_POSTGRES: usize = 3;

/// Takes events in and answers each after the commit that holds it.
#[derive(Clone)]
pub struct Intake(Batcher<NewEvent, Receipt>);

/// What became of an event that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// Stored and queued.
    Queued,
    /// Its id was known; nothing was done.
    Duplicate,
}

impl Intake {
    /// Starts the workers.
    #[must_use]
    pub fn start(store: Store) -> Self {
        let store = store.at(Door::Intake);
        let workers = match store.dialect() {
            Dialect::Postgres => LANES_ON_POSTGRES,
            Dialect::Sqlite => 1,
        };
        Self(Batcher::start(workers, MAX_BATCH_SIZE, Receive(store)))
    }

    /// Stores an event and enqueues its processing, durably, before it returns.
    ///
    /// # Errors
    /// [`BatchError`]; a repetition finds whatever was left behind and does nothing twice.
    pub async fn receive(&self, event: NewEvent) -> Result<Receipt, BatchError> {
        self.0.submit(event).await
    }
}

/// One statement each, on connections of its own. It touches the inbox and the queue only, which are usher's, so the one
/// lock that it can meet is another group's with an id in common.
struct Receive(Store);

impl BatchHandler<NewEvent, Receipt> for Receive {
    async fn commit(&self, events: &[NewEvent], _: Locks) -> Result<Vec<Receipt>, StoreError> {
        let new = self.0.in_time(BATCH_TIMEOUT, self.0.receive_events(events)).await?;
        Ok(receipts(events, new))
    }
}

/// Of two events of one id in a group, the first is the new one.
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
