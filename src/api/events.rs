//! The feed of events, as pages and by long poll.

use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::AppClient;
use super::{Api, example, tag};
use crate::events::{EventJson, event_id, read_event_id};
use crate::fields::{Fields, page_limit};
use crate::problem::{Code, Problem};
use crate::shutdown::Stopping;
use crate::store::{EventType, FeedFilter, FeedRow, StoreError};

pub(super) const PATH: &str = "/v1/events";
/// The longest poll.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(60);
/// Events on a page, by default.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 500;
/// How often a poll looks for events that another process has numbered. It holds no connection in between.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A page of events.
#[derive(Serialize, ToSchema)]
pub(super) struct EventPage {
    /// The events, in the order of the feed.
    #[schema(value_type = Vec<EventJson>)]
    items: Vec<Box<RawValue>>,
    /// The `after` of the next call; null if there has been no event yet.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// List events
///
/// What happened, oldest first, in an order that does not change: store `next_cursor` and pass it as `after`. Each event is
/// listed once. With `wait`, an empty page is held back until there is an event. Events are kept for 30 days
/// (`USHER_KEEP_OUTGOING`); after that, their cursors are `cursor_expired`.
#[utoipa::path(
    get, path = "/v1/events", tag = tag::EVENTS, operation_id = "listEvents",
    params(
        ("after" = Option<String>, Query, description = "Only events after this one: the `next_cursor` of the last call", example = example::event_id),
        ("type" = Option<EventType>, Query, description = "Only events of this type"),
        ("limit" = Option<u32>, Query, description = "Page size; 100 by default", minimum = 1, maximum = 500),
        ("wait" = Option<u32>, Query, description = "Seconds to wait if there is no event; 0 by default. A key may have ten calls waiting at once", minimum = 0, maximum = 60),
    ),
    responses((status = 200, description = "A page", body = EventPage, example = example::event_page)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::InvalidRequest, Code::CursorExpired])))
)]
pub(super) async fn list(
    State(api): State<Api>,
    client: AppClient,
    stopping: Option<Extension<Stopping>>,
    RawQuery(query): RawQuery,
) -> Result<Json<EventPage>, Problem> {
    let asked = Asked::read(query.as_deref())?;
    let after = match asked.after {
        Some(id) => place_of(&api, &client, id).await?,
        None => 0,
    };
    let filter = FeedFilter {
        after,
        event_type: asked.event_type,
        within: client.organizations().cloned(),
    };
    let _permit = match asked.wait {
        Duration::ZERO => None,
        _ => Some(api.limits.poll(client.name())?),
    };
    let until = Instant::now() + asked.wait;
    let mut numbered = api.app.store.wake.numbered.subscribe();
    loop {
        numbered.mark_unchanged();
        let rows = api.app.store.read().await?.feed(&filter, asked.limit).await?;
        let left = until.saturating_duration_since(Instant::now());
        if !rows.is_empty() || left.is_zero() || is_stopping(stopping.as_ref()) {
            return Ok(Json(page(rows, asked.after)?));
        }
        tokio::select! {
            _ = numbered.changed() => {}
            () = tokio::time::sleep(left.min(POLL_INTERVAL)) => {}
            () = stopped(stopping.as_ref()) => {}
        }
    }
}

struct Asked {
    after: Option<Uuid>,
    event_type: Option<EventType>,
    limit: u32,
    wait: Duration,
}

impl Asked {
    fn read(query: Option<&str>) -> Result<Self, Problem> {
        let mut fields = Fields::of_query(query);
        let after = fields.optional("after", |value| {
            let id = value.as_str().and_then(read_event_id);
            id.ok_or_else(|| "must be the next_cursor of an earlier answer".to_owned())
        });
        let event_type = fields.optional("type", event_type);
        let limit = fields.optional("limit", page_limit(MAX_PAGE));
        let wait = fields.optional("wait", |value| {
            let seconds = value.as_str().and_then(|text| text.parse().ok());
            seconds
                .map(Duration::from_secs)
                .filter(|wait| *wait <= MAX_WAIT)
                .ok_or_else(|| format!("must be a number from 0 to {}", MAX_WAIT.as_secs()))
        });
        let asked = Self {
            after,
            event_type,
            limit: limit.unwrap_or(PAGE),
            wait: wait.unwrap_or_default(),
        };
        fields.finish(Some(asked)).map_err(Problem::invalid)
    }
}

fn event_type(value: Value) -> Result<EventType, String> {
    let names: Vec<&str> = EventType::ALL.iter().map(|event_type| event_type.as_str()).collect();
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("must be one of {}", names.join(", ")))
}

/// The number of the event that a cursor names. What the key may not see looks as if it did not exist.
async fn place_of(api: &Api, client: &AppClient, id: Uuid) -> Result<i64, Problem> {
    let place = api.app.store.read().await?.number_of(id).await?;
    match place {
        Some((number, organization)) if is_visible(client, organization) => Ok(number),
        _ if is_past(api, id) => Err(Code::CursorExpired.into()),
        _ => {
            let mut fields = Fields::of_query(None);
            fields.error("after", "names no event");
            fields.finish(None).map_err(Problem::invalid)
        }
    }
}

fn is_visible(client: &AppClient, organization: Option<Uuid>) -> bool {
    client.organizations().is_none() || organization.is_some_and(|id| client.may_use(id))
}

/// Whether retention has passed the event: its id has its time.
fn is_past(api: &Api, id: Uuid) -> bool {
    let oldest = (api.app.clock.now() - api.app.config.retention.outgoing).timestamp();
    id.get_timestamp()
        .and_then(|time| i64::try_from(time.to_unix().0).ok())
        .is_some_and(|seconds| seconds <= oldest)
}

fn page(rows: Vec<FeedRow>, after: Option<Uuid>) -> Result<EventPage, Problem> {
    let next = rows.last().map(|row| row.id).or(after);
    let items = rows.into_iter().map(|row| RawValue::from_string(row.body));
    Ok(EventPage {
        items: items.collect::<Result<_, _>>().map_err(StoreError::unwritable)?,
        next_cursor: next.map(event_id),
    })
}

fn is_stopping(stopping: Option<&Extension<Stopping>>) -> bool {
    stopping.is_some_and(|Extension(Stopping(token))| token.is_cancelled())
}

async fn stopped(stopping: Option<&Extension<Stopping>>) {
    match stopping {
        Some(Extension(Stopping(token))) => token.cancelled().await,
        None => std::future::pending().await,
    }
}
