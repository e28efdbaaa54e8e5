//! Events on their way to endpoints.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::EventType;
use crate::names::{UnknownName, named};
use crate::store::rows::{Row as _, checked, row, sql, to_json};
use crate::store::{EndpointRow, Queue, Result, Tx, on_conn};

named! {
    /// The status of an event's delivery to an endpoint.
    EventDeliveryStatus("event delivery status") {
        /// To be sent, or sent again.
        Queued = "queued",
        /// The endpoint answered 2xx.
        Delivered = "delivered",
        /// No tries are left; it can be replayed.
        Dead = "dead",
        /// The endpoint was disabled or is no longer configured.
        Cancelled = "cancelled",
    }
}

row! {
    /// A delivery: also the payload of its job.
    #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
    pub struct EventDeliveryKey {
        pub event_id: Uuid,
        pub endpoint: String,
    }
}

/// An event that is still to be sent to an endpoint.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct QueuedEvent {
    pub event_id: Uuid,
    pub endpoint: String,
    pub body: String,
    /// How often it was tried.
    pub attempts: i32,
    pub first_tried_at: Option<DateTime<Utc>>,
    pub disabled: bool,
}

/// The result of an attempt.
#[derive(Debug, Clone)]
pub struct EventDeliveryNote {
    pub key: EventDeliveryKey,
    pub status: EventDeliveryStatus,
    /// Whether it was tried.
    pub counts: bool,
    pub error: Option<String>,
}

/// A status that may be null.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct StatusColumn(Option<String>);

impl TryFrom<StatusColumn> for Option<EventDeliveryStatus> {
    type Error = UnknownName;

    fn try_from(StatusColumn(name): StatusColumn) -> Result<Self, UnknownName> {
        name.map(EventDeliveryStatus::try_from).transpose()
    }
}

/// A delivery as operators see it.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct EventDeliveryView {
    pub event_id: Uuid,
    #[sqlx(try_from = "String")]
    pub event_type: EventType,
    pub at: DateTime<Utc>,
    /// None, like the rest, if no endpoint wanted the event.
    pub endpoint: Option<String>,
    #[sqlx(try_from = "StatusColumn")]
    pub status: Option<EventDeliveryStatus>,
    pub attempts: Option<i32>,
    pub tried_at: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
}

/// Which deliveries are wanted.
#[derive(Debug, Clone, Default)]
pub struct EventDeliveryFilter {
    pub event_id: Option<Uuid>,
    pub endpoint: Option<String>,
    pub event_type: Option<EventType>,
    pub status: Option<EventDeliveryStatus>,
    /// Of events that happened at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Of events that happened before this time.
    pub until: Option<DateTime<Utc>>,
}

row! {
    struct NoteRow<'a> {
        event_id: Uuid,
        endpoint: &'a str,
        status: EventDeliveryStatus,
        counted: i32,
        error: Option<&'a str>,
    }
}

impl Tx {
    /// Queues deliveries: their rows, and a job for each in its endpoint's queue. One that exists is queued again, with
    /// all its tries. Keys of endpoints that are not registered are left out.
    pub async fn queue_event_deliveries(
        &mut self,
        keys: &[EventDeliveryKey],
        endpoints: &[EndpointRow],
    ) -> Result<usize> {
        let mut by_queue: HashMap<Queue, Vec<&EventDeliveryKey>> = HashMap::new();
        for key in keys {
            let row = endpoints.iter().find(|row| row.name == key.endpoint);
            if let Some(queue) = row.and_then(EndpointRow::queue) {
                by_queue.entry(queue).or_default().push(key);
            }
        }
        let mut rows: Vec<&EventDeliveryKey> = by_queue.values().flatten().copied().collect();
        if rows.is_empty() {
            return Ok(0);
        }
        rows.sort();
        let text = format!(
            "insert into usher_event_deliveries ({}, status, queued_at) select r.*, 'queued', $2 from {} where true
             on conflict (event_id, endpoint) do update set status = 'queued', attempts = 0, queued_at = $2,
                 first_tried_at = null",
            EventDeliveryKey::columns(),
            EventDeliveryKey::unfold(self.dialect())
        );
        let json = to_json(&rows)?;
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(json)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        for (queue, keys) in by_queue {
            self.enqueue(queue, &keys).await?;
        }
        Ok(rows.len())
    }

    /// The deliveries among these that are still to be made, with what is sent. The job of a dead one runs only if
    /// somebody retries it.
    pub async fn queued_events(&mut self, keys: &[EventDeliveryKey]) -> Result<Vec<QueuedEvent>> {
        let text = format!(
            "select d.event_id, d.endpoint, e.body, d.attempts, d.first_tried_at,
                 coalesce(n.disabled_at is not null, false) as disabled
             from {}
             join usher_event_deliveries d on d.event_id = r.event_id and d.endpoint = r.endpoint
             join usher_outgoing_events e on e.id = d.event_id
             left join usher_event_endpoints n on n.name = d.endpoint
             where {} and e.body is not null",
            EventDeliveryKey::unfold(self.dialect()),
            checked("d.status in ('queued', 'dead')")
        );
        let keys = to_json(keys)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(keys)
            .fetch_all(conn)
            .await)?)
    }

    /// Stores the results of attempts. A delivery that is no longer queued keeps its status.
    pub async fn note_event_deliveries(&mut self, notes: &[EventDeliveryNote]) -> Result<()> {
        let source = NoteRow::unfold(self.dialect());
        let text = format!(
            "update usher_event_deliveries set status = r.status, attempts = attempts + r.counted,
                 last_error = case r.status when 'delivered' then null
                     else coalesce(r.error, usher_event_deliveries.last_error) end,
                 tried_at = case r.counted when 0 then tried_at else $2 end,
                 first_tried_at = case r.counted when 0 then first_tried_at else coalesce(first_tried_at, $2) end
             from {source}
             where usher_event_deliveries.event_id = r.event_id and usher_event_deliveries.endpoint = r.endpoint and {}",
            checked("usher_event_deliveries.status in ('queued', 'dead')")
        );
        let mut rows: Vec<_> = notes
            .iter()
            .map(|note| NoteRow {
                event_id: note.key.event_id,
                endpoint: &note.key.endpoint,
                status: note.status,
                counted: note.counts.into(),
                error: note.error.as_deref(),
            })
            .collect();
        // Always in this order, to avoid deadlocks.
        rows.sort_by_key(|row| (row.event_id, row.endpoint));
        let rows = to_json(&rows)?;
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Deliveries, newest events first.
    pub async fn event_deliveries(
        &mut self,
        filter: &EventDeliveryFilter,
        limit: u32,
    ) -> Result<Vec<EventDeliveryView>> {
        let mut conditions = String::from("true");
        let mut next = 1;
        for (is_set, condition) in [
            (filter.event_id.is_some(), "e.id ="),
            (filter.endpoint.is_some(), "d.endpoint ="),
            (filter.event_type.is_some(), "e.type ="),
            (filter.status.is_some(), "d.status ="),
            (filter.since.is_some(), "e.at >="),
            (filter.until.is_some(), "e.at <"),
        ] {
            if is_set {
                next += 1;
                conditions.push_str(&format!(" and {condition} ${next}"));
            }
        }
        let text = format!(
            "select e.id as event_id, e.type as event_type, e.at, d.endpoint, d.status, d.attempts, d.tried_at, d.last_error
             from usher_outgoing_events e left join usher_event_deliveries d on d.event_id = e.id
             where e.number is not null and {conditions} order by e.number desc, d.endpoint limit $1"
        );
        Ok(on_conn!(self, |conn| {
            let mut query = sqlx::query_as(sql(text)).bind(i64::from(limit));
            if let Some(id) = filter.event_id {
                query = query.bind(id);
            }
            if let Some(endpoint) = &filter.endpoint {
                query = query.bind(endpoint);
            }
            if let Some(event_type) = filter.event_type {
                query = query.bind(event_type.as_str());
            }
            if let Some(status) = filter.status {
                query = query.bind(status.as_str());
            }
            for time in [filter.since, filter.until].into_iter().flatten() {
                query = query.bind(time);
            }
            query.fetch_all(conn).await
        })?)
    }
}
