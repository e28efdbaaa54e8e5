//! The inbox: Clerk's events in a list with filters, and one event with what came of it.

use std::collections::HashMap;

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::jobs::{MAX_ERROR, attempts};
use super::layout::{CELL, Page, Section, capitalized, cut, details, message, state, table, text, time, whole_time};
use super::live::Refresh;
use super::query::{Asked, link, link_with, segment};
use super::redact::redacted;
use super::viewer::Viewer;
use super::{Board, INBOX, JOBS, Unavailable};
use crate::repair::EventAction;
use crate::store::{EventFilter, EventKey, EventState, EventView, StoreError};
use usher_clerk::EventKind;

/// Rows of a page.
const PAGE: u32 = 50;
pub(super) const CHANGE: &str = "/board/inbox/change";
/// Characters of a payload that are shown.
const MAX_PAYLOAD: usize = 32_000;

/// The filters of a list of events, as the address has them.
pub(super) struct EventQuery {
    pub id: Option<String>,
    pub state: Option<EventState>,
    event_type: Option<String>,
    /// Ages or times, as they were given.
    since: Option<String>,
    before: Option<String>,
    times: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
}

impl EventQuery {
    pub(super) fn read(asked: &mut Asked, now: DateTime<Utc>) -> Self {
        Self {
            id: asked.text("id"),
            state: asked.name("state", EventState::ALL),
            event_type: asked.text("type"),
            since: asked.text("since"),
            before: asked.text("before"),
            times: (asked.time("since", now), asked.time("before", now)),
        }
    }

    pub(super) fn filter(&self) -> EventFilter {
        EventFilter {
            state: self.state,
            event_type: self.event_type.clone(),
            since: self.times.0,
            before: self.times.1,
            ..EventFilter::default()
        }
    }

    /// For addresses and forms.
    pub(super) fn fields(&self) -> Vec<(&'static str, Option<&str>)> {
        vec![
            ("id", self.id.as_deref()),
            ("state", self.state.map(EventState::as_str)),
            ("type", self.event_type.as_deref()),
            ("since", self.since.as_deref()),
            ("before", self.before.as_deref()),
        ]
    }
}

/// An event's key in an address: microseconds and id.
pub(super) fn key_text(key: &EventKey) -> String {
    format!("{}.{}", key.received_at.timestamp_micros(), key.svix_id)
}

pub(super) fn key_of(text: &str) -> Option<EventKey> {
    let (micros, svix_id) = text.split_once('.')?;
    Some(EventKey {
        received_at: DateTime::from_timestamp_micros(micros.parse().ok()?)?,
        svix_id: svix_id.to_owned(),
    })
}

pub(super) async fn list(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    refresh: Refresh,
    Query(fields): Query<HashMap<String, String>>,
) -> Result<Response, Unavailable> {
    let body = board
        .live
        .body(refresh, &viewer, list_body(&board, &viewer, fields))
        .await?;
    let page = Page {
        section: Section::Inbox,
        title: "Inbox",
        live: true,
    };
    Ok(page.show(&viewer, body))
}

async fn list_body(board: &Board, viewer: &Viewer, fields: HashMap<String, String>) -> Result<Markup, StoreError> {
    let now = board.app.clock.now();
    let mut asked = Asked::new(fields);
    let query = EventQuery::read(&mut asked, now);
    let below = asked.text("below").and_then(|text| key_of(&text));
    let problem = asked.all_wrong();
    let events = if problem.is_none() {
        let filter = EventFilter {
            below,
            ..query.filter()
        };
        board.app.store.read().await?.events(&filter, PAGE).await?
    } else {
        Vec::new()
    };
    Ok(html! {
        (filters(&query))
        @if let Some(problem) = &problem { p.problem role="alert" { (problem) "." } }
        @else { (rows(&events, now)) (next_page(&query, &events)) (bulk(&query, viewer, &events)) }
    })
}

fn filters(query: &EventQuery) -> Markup {
    html! {
        form.filters method="get" action=(INBOX) role="search" aria-label="Filter events" {
            label { "State"
                select name="state" {
                    option value="" { "all" }
                    @for &state in EventState::ALL {
                        option value=(state) selected[query.state == Some(state)] { (state) }
                    }
                }
            }
            label { "Type"
                input type="search" name="type" list="types" value=[query.event_type.as_deref()];
                datalist #types { @for kind in EventKind::ALL { option value=(kind.as_str()) {} } }
            }
            label { "Since"
                input type="text" name="since" size="8" placeholder="36h" value=[query.since.as_deref()];
            }
            label { "Before"
                input type="text" name="before" size="8" placeholder="1h" value=[query.before.as_deref()];
            }
            button type="submit" { "Filter" }
        }
    }
}

fn rows(events: &[EventView], now: DateTime<Utc>) -> Markup {
    if events.is_empty() {
        return html! { p { "No event is like that." } };
    }
    let rows = html! {
        @for event in events {
            tr {
                th scope="row" { a href=(segment(INBOX, &event.svix_id)) { code { (event.svix_id) } } }
                td { (event.event_type) }
                td { (state(event.state.as_str())) }
                td { (time(event.received_at, now)) }
                td.long { (cut(event.outcome.as_deref().or(event.error.as_deref()).unwrap_or_default(), CELL)) }
            }
        }
    };
    table(
        "Events, newest first",
        &["Event", "Type", "State", "Received", "What came of it"],
        rows,
    )
}

fn next_page(query: &EventQuery, events: &[EventView]) -> Markup {
    let last = events.last().filter(|_| events.len() == PAGE as usize);
    let key = last.map(|last| {
        key_text(&EventKey {
            received_at: last.received_at,
            svix_id: last.svix_id.clone(),
        })
    });
    html! {
        @if let Some(key) = key { p { a href=(link_with(INBOX, query.fields(), "below", &key)) rel="next" { "Older events" } } }
    }
}

/// What can be done to all failed events that match.
fn bulk(query: &EventQuery, viewer: &Viewer, events: &[EventView]) -> Markup {
    let is_possible = query.state.is_none_or(|state| state == EventState::Failed) && !events.is_empty();
    html! {
        @if viewer.operates() && is_possible {
            nav.actions aria-label="All failed events that match" {
                @for action in EventAction::ALL {
                    a.button href=(link_with(CHANGE, query.fields(), "action", action.verb())) {
                        (capitalized(action.verb())) " all failed that match…"
                    }
                }
            }
        }
    }
}

pub(super) async fn show(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Path(id): Path<String>,
    Query(fields): Query<HashMap<String, String>>,
) -> Result<Response, Unavailable> {
    let mut tx = board.app.store.read().await?;
    let Some(event) = tx.event(&id).await? else {
        let text = format!("There is no event {id}. Processed events are deleted after a while.");
        return Ok(message(
            Section::Inbox,
            &viewer,
            StatusCode::NOT_FOUND,
            "No such event",
            &text,
        ));
    };
    let failures = tx.failures_about(&id).await?;
    let is_asked = fields.contains_key("payload");
    let payload = match is_asked && viewer.operates() {
        true => tx.event_payload(&id).await?,
        false => None,
    };
    let now = board.app.clock.now();
    let page = Page {
        section: Section::Inbox,
        title: &format!("Event {}", event.svix_id),
        live: false,
    };
    let body = html! {
        (about(&event, now))
        (actions(&event, &viewer))
        (attempts(&failures, now))
        h2 { "Payload" }
        (payload_of(&event, &viewer, is_asked, payload.as_deref()))
    };
    Ok(page.show(&viewer, body))
}

fn about(event: &EventView, now: DateTime<Utc>) -> Markup {
    details(&[
        ("Type", Some(text(&event.event_type))),
        ("State", Some(state(event.state.as_str()))),
        ("Received", Some(whole_time(event.received_at, now))),
        ("Processed", event.processed_at.map(|at| whole_time(at, now))),
        ("Outcome", event.outcome.as_deref().map(text)),
        ("Error", event.error.as_deref().map(|error| text(cut(error, MAX_ERROR)))),
        (
            "Jobs",
            Some(html! { a href=(link(JOBS, &[("about", Some(&event.svix_id))])) { "unfinished jobs about it" } }),
        ),
    ])
}

fn actions(event: &EventView, viewer: &Viewer) -> Markup {
    html! {
        @if viewer.operates() && event.state == EventState::Failed {
            nav.actions aria-label="Actions" {
                @for action in EventAction::ALL {
                    @let address = link(CHANGE, &[("id", Some(&event.svix_id)), ("action", Some(action.verb()))]);
                    a.button href=(address) { (capitalized(action.verb())) "…" }
                }
            }
        }
    }
}

/// It holds names and addresses, so it is shown on demand, and to those who may operate.
fn payload_of(event: &EventView, viewer: &Viewer, is_asked: bool, payload: Option<&str>) -> Markup {
    if !viewer.operates() {
        return html! { p.muted { "It holds names and addresses. The role `operate` is needed to see it." } };
    }
    if !is_asked {
        let address = link(&segment(INBOX, &event.svix_id), &[("payload", Some("show"))]);
        return html! { p { a.button href=(address) { "Show the payload" } } };
    }
    match payload.map(redacted) {
        Some(Some(payload)) => {
            let shown = cut(&payload, MAX_PAYLOAD);
            html! {
                pre tabindex="0" aria-label="Payload" { (shown) }
                @if shown != payload { p { "The rest is left out. `usher webhooks show --payload` prints all." } }
            }
        }
        Some(None) => html! { p { "It is no JSON, so it is not shown: secrets could not be cut out." } },
        None => html! { p { "It is not kept any more." } },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_an_address() {
        let key = EventKey {
            received_at: DateTime::from_timestamp_micros(1_800_000_000_123_456).unwrap(),
            svix_id: "msg_1.2".to_owned(),
        };
        assert_eq!(key_of(&key_text(&key)), Some(key));
        assert_eq!(key_of("soon.msg_1"), None);
    }
}
