//! The numberer: one at a time over all processes. Events get numbers in the order in which they were written, once their
//! transaction has committed; so the feed has no gaps, and a later number never appears before an earlier one. A
//! transaction that stays open delays its own events only.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use uuid::Uuid;

use super::EventJson;
use super::body::Subjects;
use crate::app::App;
use crate::config::EventEndpoint;
use crate::metrics;
use crate::store::{EventDeliveryKey, Numbered, StoreError, Tx};

/// Events per transaction.
const BATCH: u32 = 500;
/// How often to look without being woken.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The timeout of a batch.
const LIMIT: Duration = Duration::from_secs(8);
/// How many times as long as a batch took the numberer rests after it while more is recorded, and the maximum. What
/// happens goes before telling of it: without the rest, 10,000 events from Clerk take effect at 71 % of the speed without an
/// endpoint on Postgres.
const REST: u32 = 4;
const MAX_REST: Duration = Duration::from_millis(500);

/// Gives numbers to events. Never returns.
pub async fn keep_numbering(app: &App) {
    let mut recorded = app.store.wake.outgoing.subscribe();
    loop {
        recorded.mark_unchanged();
        let began = Instant::now();
        let has_more = number_some(app).await.unwrap_or_else(|error| {
            tracing::warn!(error = %error, "could not number the events for the app; retrying");
            false
        });
        if recorded.has_changed().unwrap_or(false) {
            tokio::time::sleep((began.elapsed() * REST).min(MAX_REST)).await;
        }
        if !has_more {
            let _ = tokio::time::timeout(POLL_INTERVAL, recorded.changed()).await;
        }
    }
}

/// Numbers all events that wait, unless another process does.
pub async fn number(app: &App) -> Result<(), StoreError> {
    while number_some(app).await? {}
    Ok(())
}

/// Numbers one batch; whether there may be more.
async fn number_some(app: &App) -> Result<bool, StoreError> {
    let look = async { app.store.read().await?.has_unnumbered().await };
    if !app.store.with_timeout(LIMIT, look).await? {
        return Ok(false);
    }
    let batch = app.store.transaction(app, |tx, app| number_batch(tx, app).boxed());
    let numbered = app.store.with_timeout(LIMIT, batch).await?;
    numbered.iter().for_each(|&lag| metrics::event_numbered(lag));
    Ok(numbered.len() == BATCH as usize)
}

/// How long each event waited for its number.
async fn number_batch(tx: &mut Tx, app: &App) -> Result<Vec<Duration>, StoreError> {
    let Some(last) = tx.lock_feed().await? else {
        return Ok(Vec::new());
    };
    let events = tx.unnumbered_events(BATCH).await?;
    let now = tx.now();
    let ids: HashSet<Uuid> = events.iter().filter_map(|event| event.invite_id).collect();
    let views = tx.invite_views(&ids.into_iter().collect::<Vec<_>>()).await?;
    let mut about = Subjects {
        invites: views.into_iter().map(|view| (view.invite.id, view)).collect(),
        targets: HashMap::new(),
    };
    if let Some(last) = events.iter().rfind(|event| event.invite_id.is_none()) {
        let targets = tx.event_targets(last.seq).await?;
        about.targets = targets.into_iter().map(|target| (target.seq, target)).collect();
    }

    let mut numbered = Vec::with_capacity(events.len());
    let mut deliveries = Vec::new();
    for (number, event) in (last + 1..).zip(&events) {
        let (json, organization) = EventJson::at(event, &about, &app.config.redirects, now);
        let body = serde_json::to_string(&json).map_err(StoreError::unwritable)?;
        numbered.push(Numbered {
            seq: event.seq,
            number,
            organization,
            body,
        });
        let wants = |endpoint: &&EventEndpoint| endpoint.wants(event.event_type);
        deliveries.extend(
            app.config
                .event_endpoints
                .iter()
                .filter(wants)
                .map(|endpoint| EventDeliveryKey {
                    event_id: event.id,
                    endpoint: endpoint.name.clone(),
                }),
        );
    }
    tx.number_events(&numbered).await?;
    if !deliveries.is_empty() {
        let mut endpoints = tx.endpoints().await?;
        endpoints.retain(|endpoint| endpoint.disabled_at.is_none());
        tx.queue_event_deliveries(&deliveries, &endpoints).await?;
    }
    let lag = |at: DateTime<Utc>| (now - at).to_std().unwrap_or_default();
    Ok(events.iter().map(|event| lag(event.at)).collect())
}
