//! `deliver-event-1` to `-8`, one queue for each endpoint: sends one event to it, at least once.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Context, Job, JobError};
use crate::app::App;
use crate::batch::{BatchHandler, Batcher, Locks};
use crate::config::EventEndpoint;
use crate::events::{Answer, Refusal, Sender, event_id};
use crate::metrics::{self, EventOutcome};
use crate::store::{EventDeliveryKey, EventDeliveryNote, EventDeliveryStatus, Queue, QueuedEvent, StoreError};

/// How many events are loaded, or results stored, at once.
const MAX_BATCH_SIZE: usize = 256;
/// How long a result waits for others. If the process is killed in between, these events are sent again.
const LINGER: Duration = Duration::from_millis(5);
/// The timeout of each access to the database.
const DATABASE_LIMIT: Duration = Duration::from_secs(8);
/// How long a job is deferred in a process whose configuration does not name its endpoint: another one's does.
const DEFER: TimeDelta = TimeDelta::seconds(30);
/// The waits between the tries; the last one is repeated.
const WAITS: [TimeDelta; 6] = [
    TimeDelta::seconds(5),
    TimeDelta::minutes(5),
    TimeDelta::minutes(30),
    TimeDelta::hours(2),
    TimeDelta::hours(5),
    TimeDelta::hours(10),
];
/// How long it is tried.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(3);
/// How long `Retry-After` may delay a try.
const MAX_RETRY_AFTER: TimeDelta = TimeDelta::hours(10);
/// A wait is longer by up to this fraction, so that events that failed together are not sent again together.
const JITTER: f64 = 0.2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverEvent {
    pub event_id: Uuid,
    pub endpoint: String,
}

impl Job for DeliverEvent {
    const QUEUE: Queue = Queue::DeliverEvent1;
    /// The request has 15 s; the rest is for the database.
    const TIME_LIMIT: Duration = Duration::from_secs(60);

    fn about(&self) -> Option<String> {
        Some(format!("{} {}", event_id(self.event_id), self.endpoint))
    }

    async fn run(&self, context: &Context) -> Result<(), JobError> {
        let app = &context.app;
        let deliveries = &context.deliveries;
        let Some(endpoint) = self.endpoint(app) else {
            let until = app.clock.now() + DEFER;
            return Err(JobError::Wait { until });
        };
        let Some(event) = deliveries.loads.submit(self.key()).await? else {
            return Ok(()); // Delivered, cancelled or deleted meanwhile.
        };
        if event.disabled {
            return self.note(context, EventDeliveryStatus::Cancelled, false, None).await;
        }
        let sender = deliveries.sender.as_ref().map_err(JobError::retry)?;
        let answer = sender
            .send(&endpoint.url, self.event_id, &event.body, app.clock.now())
            .await;
        self.settle(context, &event, answer).await
    }

    async fn gave_up(&self, context: &Context, _: &str) -> Result<(), JobError> {
        self.note(context, EventDeliveryStatus::Dead, false, None).await
    }
}

impl DeliverEvent {
    fn key(&self) -> EventDeliveryKey {
        EventDeliveryKey {
            event_id: self.event_id,
            endpoint: self.endpoint.clone(),
        }
    }

    fn endpoint<'a>(&self, app: &'a App) -> Option<&'a EventEndpoint> {
        let endpoints = &app.config.event_endpoints;
        endpoints.iter().find(|endpoint| endpoint.name == self.endpoint)
    }

    async fn settle(&self, context: &Context, event: &QueuedEvent, answer: Answer) -> Result<(), JobError> {
        match answer {
            Answer::Accepted => {
                metrics::event_sent(EventOutcome::Delivered);
                self.note(context, EventDeliveryStatus::Delivered, true, None).await
            }
            Answer::Gone => {
                metrics::event_sent(EventOutcome::Gone);
                self.disable(&context.app).await?;
                let why = Some("it answered 410".to_owned());
                self.note(context, EventDeliveryStatus::Cancelled, true, why).await
            }
            Answer::Refused(refusal) => self.later(context, event, refusal).await,
        }
    }

    async fn later(&self, context: &Context, event: &QueuedEvent, refusal: Refusal) -> Result<(), JobError> {
        let now = context.app.clock.now();
        let first = event.first_tried_at.unwrap_or(now);
        let attempt = event.attempts.saturating_add(1).unsigned_abs();
        let again_at = next_try(attempt, first, now, refusal.retry_after, rand::random());
        let shown = match refusal.shown.as_str() {
            "" => refusal.reason.clone(),
            shown => format!("{}: {shown}", refusal.reason),
        };
        self.note(context, EventDeliveryStatus::Queued, true, Some(shown))
            .await?;
        let why = format!(
            "the endpoint {} did not take the event: {}",
            self.endpoint, refusal.reason
        );
        match again_at {
            Some(at) => {
                metrics::event_sent(EventOutcome::Retried);
                Err(JobError::RetryAt { at, why })
            }
            None => {
                metrics::event_sent(EventOutcome::Dead);
                Err(JobError::GiveUp(why))
            }
        }
    }

    async fn disable(&self, app: &App) -> Result<(), JobError> {
        let disable = app.store.transaction(self.endpoint.as_str(), |tx, name| {
            tx.disable_endpoint(name, "it answered 410").boxed()
        });
        if disable.await? {
            tracing::error!(
                endpoint = self.endpoint,
                "the endpoint {} answered 410 Gone: it is disabled and gets no events until: usher events enable {}",
                self.endpoint,
                self.endpoint
            );
        }
        Ok(())
    }

    async fn note(
        &self,
        context: &Context,
        status: EventDeliveryStatus,
        counts: bool,
        error: Option<String>,
    ) -> Result<(), JobError> {
        let note = EventDeliveryNote {
            key: self.key(),
            status,
            counts,
            error,
        };
        Ok(context.deliveries.notes.submit(note).await?)
    }
}

/// When to try again after try number `attempt`, counted from 1; `None` after three days. `chance` is from 0 to 1.
fn next_try(
    attempt: u32,
    first: DateTime<Utc>,
    now: DateTime<Utc>,
    retry_after: Option<TimeDelta>,
    chance: f64,
) -> Option<DateTime<Utc>> {
    let index = usize::try_from(attempt).unwrap_or(usize::MAX).saturating_sub(1);
    let wait = WAITS[index.min(WAITS.len() - 1)];
    let longer = TimeDelta::milliseconds((wait.num_milliseconds() as f64 * JITTER * chance) as i64);
    let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
    let again_at = now + (wait + longer).max(asked);
    (again_at - first <= GIVE_UP_AFTER).then_some(again_at)
}

/// Loads events and stores the results in batches, and sends.
pub(super) struct Deliveries {
    loads: Batcher<EventDeliveryKey, Option<QueuedEvent>>,
    notes: Batcher<EventDeliveryNote, ()>,
    sender: Result<Sender, String>,
}

struct LoadHandler(App);

impl BatchHandler<EventDeliveryKey, Option<QueuedEvent>> for LoadHandler {
    async fn commit(&self, keys: &[EventDeliveryKey], locks: Locks) -> Result<Vec<Option<QueuedEvent>>, StoreError> {
        let store = self.0.store.with_lock_wait(locks.wait);
        let load = async { store.read().await?.queued_events(keys).await };
        let found = store.with_timeout(DATABASE_LIMIT, load).await?;
        let of = |key: &EventDeliveryKey| {
            let is_it = |event: &&QueuedEvent| event.event_id == key.event_id && event.endpoint == key.endpoint;
            found.iter().find(is_it).cloned()
        };
        Ok(keys.iter().map(of).collect())
    }
}

struct NoteHandler(App);

impl BatchHandler<EventDeliveryNote, ()> for NoteHandler {
    async fn commit(&self, notes: &[EventDeliveryNote], locks: Locks) -> Result<Vec<()>, StoreError> {
        let store = self.0.store.with_lock_wait(locks.wait);
        let note = store.transaction(notes, |tx, notes| tx.note_event_deliveries(notes).boxed());
        store.with_timeout(DATABASE_LIMIT, note).await?;
        Ok(vec![(); notes.len()])
    }
}

impl Deliveries {
    pub(super) fn start(app: &App) -> Self {
        Self {
            loads: Batcher::start(1, MAX_BATCH_SIZE, LoadHandler(app.clone())),
            notes: Batcher::start_with_linger(1, MAX_BATCH_SIZE, LINGER, NoteHandler(app.clone())),
            sender: Sender::new(&app.config.event_secrets).map_err(|error| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_made_for_three_days_at_growing_distances() {
        let first = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let mut now = first;
        let mut waits = Vec::new();
        for attempt in 1.. {
            let Some(again_at) = next_try(attempt, first, now, None, 0.0) else {
                break;
            };
            waits.push((again_at - now).num_seconds());
            now = again_at;
        }
        assert_eq!(waits[..7], [5, 300, 1800, 7200, 18_000, 36_000, 36_000]);
        assert!(now - first > TimeDelta::hours(60), "{}", now - first);
    }

    #[test]
    fn retry_after_delays_a_try_but_never_brings_it_forward_or_past_the_end() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let wait = |asked| (next_try(1, now, now, Some(asked), 0.0).unwrap() - now).num_seconds();
        assert_eq!(wait(TimeDelta::seconds(60)), 60);
        assert_eq!(wait(TimeDelta::seconds(1)), 5);
        assert_eq!(wait(TimeDelta::seconds(-60)), 5);
        assert_eq!(wait(TimeDelta::days(30)), 36_000);
    }
}
