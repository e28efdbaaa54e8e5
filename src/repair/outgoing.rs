//! Enabling endpoints of the app, and sending it events again.

use chrono::{DateTime, SecondsFormat, Utc};
use futures::FutureExt as _;
use uuid::Uuid;

use super::{BATCH, Entry, Operator, RepairError, Words};
use crate::events::event_id;
use crate::store::{EventDeliveryFilter, EventDeliveryKey, Store, StoreError};

/// Enables an endpoint that answered 410.
pub async fn enable_endpoint(store: &Store, operator: Operator, name: &str) -> Result<(), RepairError> {
    let entry = Entry::new(store, operator, "enable endpoint", name);
    let enabled = store.transaction((entry, name), |tx, (entry, name)| {
        async move {
            let enabled = tx.enable_endpoint(name).await?;
            if enabled {
                tx.note_change(&entry.row(), 1).await?;
            }
            Ok::<_, StoreError>(enabled)
        }
        .boxed()
    });
    if enabled.await? {
        Ok(())
    } else {
        Err(RepairError::IsNotDisabled(name.to_owned()))
    }
}

/// Queues deliveries again, whatever became of them; returns how many. `events` and `filter` are what they were chosen by.
pub async fn send_again(
    store: &Store,
    operator: Operator,
    events: &[Uuid],
    filter: &EventDeliveryFilter,
    keys: &[EventDeliveryKey],
) -> Result<usize, StoreError> {
    let entry = Entry::new(store, operator, "send events again", &words(events, filter));
    let mut queued = 0;
    for keys in keys.chunks(BATCH as usize) {
        queued += store
            .transaction((&entry, keys), |tx, (entry, keys)| {
                async move {
                    let endpoints = tx.endpoints().await?;
                    let queued = tx.queue_event_deliveries(keys, &endpoints).await?;
                    tx.note_change(&entry.row(), queued as u64).await?;
                    Ok::<_, StoreError>(queued)
                }
                .boxed()
            })
            .await?;
    }
    Ok(queued)
}

fn words(events: &[Uuid], filter: &EventDeliveryFilter) -> String {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let ids: Vec<String> = events.iter().map(|&id| event_id(id)).collect();
    Words::new()
        .ids(&ids)
        .add("endpoint", filter.endpoint.as_deref())
        .add("type", filter.event_type)
        .add("state", filter.status)
        .add("since", filter.since.map(time))
        .add("before", filter.until.map(time))
        .text()
}
