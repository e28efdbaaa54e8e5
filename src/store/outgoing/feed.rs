//! The feed: events by their numbers.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::EventType;
use crate::metrics::EventsState;
use crate::store::rows::sql;
use crate::store::{Result, Tx, on_conn};

/// Which events of the feed are wanted.
#[derive(Debug, Clone, Default)]
pub struct FeedFilter {
    /// Only events after this number.
    pub after: i64,
    pub event_type: Option<EventType>,
    /// Only events of these organizations.
    pub within: Option<HashSet<Uuid>>,
}

/// An event of the feed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct FeedRow {
    pub id: Uuid,
    pub number: i64,
    pub body: String,
}

impl Tx {
    /// Events of the feed, oldest first.
    pub async fn feed(&mut self, filter: &FeedFilter, limit: u32) -> Result<Vec<FeedRow>> {
        let mut conditions = String::from("number > $2");
        let mut next = 2;
        if filter.event_type.is_some() {
            next += 1;
            conditions.push_str(&format!(" and type = ${next}"));
        }
        let within: Vec<Uuid> = filter.within.iter().flatten().copied().collect();
        if filter.within.is_some() {
            let places: Vec<String> = within
                .iter()
                .map(|_| {
                    next += 1;
                    format!("${next}")
                })
                .collect();
            conditions.push_str(&format!(" and organization_id in ({})", places.join(", ")));
        }
        let text =
            format!("select id, number, body from usher_outgoing_events where {conditions} order by number limit $1");
        Ok(on_conn!(self, |conn| {
            let mut query = sqlx::query_as(sql(text)).bind(i64::from(limit)).bind(filter.after);
            if let Some(event_type) = filter.event_type {
                query = query.bind(event_type.as_str());
            }
            for &id in &within {
                query = query.bind(id);
            }
            query.fetch_all(conn).await
        })?)
    }

    /// The number of an event, with its organization, if it is still there and has one.
    pub async fn number_of(&mut self, id: Uuid) -> Result<Option<(i64, Option<Uuid>)>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select number, organization_id from usher_outgoing_events where id = $1 and number is not null"
        )
        .bind(id)
        .fetch_optional(conn)
        .await)?)
    }

    /// What is sent of an event, once it has a number.
    pub async fn event_body(&mut self, id: Uuid) -> Result<Option<String>> {
        Ok(on_conn!(self, |conn| sqlx::query_scalar(
            "select body from usher_outgoing_events where id = $1 and body is not null"
        )
        .bind(id)
        .fetch_optional(conn)
        .await)?)
    }

    /// The last number of the feed.
    pub async fn last_number(&mut self) -> Result<i64> {
        Ok(on_conn!(self, |conn| sqlx::query_scalar(
            "select last_number from usher_event_feed"
        )
        .fetch_one(conn)
        .await)?)
    }

    /// Whether events wait for a number.
    pub async fn has_unnumbered(&mut self) -> Result<bool> {
        Ok(on_conn!(self, |conn| sqlx::query_scalar(
            "select exists (select 1 from usher_outgoing_events where number is null)"
        )
        .fetch_one(conn)
        .await)?)
    }

    /// What of the events needs attention.
    pub async fn events_state(&mut self) -> Result<EventsState> {
        let (unnumbered, oldest, dead, disabled): (i64, Option<DateTime<Utc>>, i64, i64) =
            on_conn!(self, |conn| sqlx::query_as(
                "select (select count(*) from usher_outgoing_events where number is null),
                     (select at from usher_outgoing_events where number is null order by seq limit 1),
                     (select count(*) from usher_event_deliveries
                      where status in ('queued', 'dead') and status = 'dead'),
                     (select count(*) from usher_event_endpoints where disabled_at is not null)"
            )
            .fetch_one(conn)
            .await)?;
        let age = oldest.map_or(0, |at| (self.now() - at).num_milliseconds().max(0));
        Ok(EventsState {
            unnumbered: unnumbered.unsigned_abs(),
            oldest_age: age as f64 / 1000.0,
            dead: dead.unsigned_abs(),
            disabled_endpoints: disabled.unsigned_abs(),
        })
    }
}
