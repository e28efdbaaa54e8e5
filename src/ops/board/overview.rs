//! The first page: whether all is well, in one sentence, and what it is made of.

use std::collections::HashMap;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use url::Url;

use super::layout::{Page, Section, details, table, text, time};
use super::query::link;
use super::snapshot::Snapshot;
use super::viewer::Viewer;
use super::{Board, INBOX, JOBS};
use crate::metrics::QueueDepth;
use crate::store::{EndpointRow, Queue, minute_of};

pub(super) async fn show(State(board): State<Board>, Extension(viewer): Extension<Viewer>) -> Response {
    let known = board.snapshots.get(&board.app.store).await;
    let workers = board.snapshots.workers();
    let body = match known.as_ref() {
        Ok(snapshot) => html! {
            (verdict(&snapshot.problems(&workers)))
            (queues(snapshot))
            (figures(&board, snapshot))
            (endpoints(snapshot))
            (processes(snapshot, &workers))
        },
        Err(why) => verdict(&[format!("the database does not answer: {why}")]),
    };
    let page = Page {
        section: Section::Overview,
        title: "Overview",
        live: true,
    };
    page.show(&viewer, body)
}

fn verdict(problems: &[String]) -> Markup {
    if problems.is_empty() {
        return html! { p.verdict.well role="status" { "All is well." } };
    }
    html! { p.verdict.ill role="status" { "Not well: " (problems.join("; ")) "." } }
}

fn queues(snapshot: &Snapshot) -> Markup {
    let heads = [
        "Queue",
        "Waiting",
        "Scheduled",
        "Running",
        "Dead",
        "Oldest waits",
        "Last hour",
    ];
    let count = |queue: &QueueDepth, state: &str, count: u64| {
        let address = link(JOBS, &[("queue", Some(queue.queue)), ("state", Some(state))]);
        html! { td.number { @if count > 0 { a href=(address) { (count) } } @else { "0" } } }
    };
    let rows = html! {
        @for queue in snapshot.queues.iter().filter(|queue| is_used(queue, &snapshot.endpoints)) {
            tr {
                th scope="row" { a href=(link(JOBS, &[("queue", Some(queue.queue))])) { (queue.queue) } }
                (count(queue, "waiting", queue.waiting))
                (count(queue, "scheduled", queue.scheduled))
                (count(queue, "running", queue.running))
                (count(queue, "dead", queue.dead))
                td.number { @if queue.oldest_age > 0.0 { (format!("{:.0} s", queue.oldest_age)) } }
                td { (sparkline(&ended(snapshot, queue.queue))) }
            }
        }
    };
    table("Queues", &heads, rows)
}

/// Attempts of one queue that ended well, and failed, in each minute of the last hour.
fn ended(snapshot: &Snapshot, queue: &str) -> Vec<(i64, i64)> {
    let last = minute_of(snapshot.at);
    let of_queue: HashMap<i64, (i64, i64)> = snapshot
        .ended
        .iter()
        .filter(|row| row.queue == queue)
        .map(|row| (row.minute, (row.done, row.failed)))
        .collect();
    (last - 59..=last)
        .map(|minute| of_queue.get(&minute).copied().unwrap_or_default())
        .collect()
}

/// Bars of what ended in each minute, what failed on top, and their sums in words.
fn sparkline(minutes: &[(i64, i64)]) -> Markup {
    const HEIGHT: i64 = 24;
    let highest = minutes
        .iter()
        .map(|(done, failed)| done + failed)
        .max()
        .unwrap_or(0)
        .max(1);
    // What there is at all is seen.
    let size = |count: i64| {
        if count == 0 {
            0
        } else {
            (count * HEIGHT / highest).max(1)
        }
    };
    let (done, failed) = minutes
        .iter()
        .fold((0, 0), |(done, failed), minute| (done + minute.0, failed + minute.1));
    let words = format!("{done} done, {failed} failed");
    html! {
        svg.sparkline viewBox={ "0 0 " (minutes.len() * 2) " " (HEIGHT) } width="120" height=(HEIGHT)
            role="img" aria-label=(words) {
            @for (index, (done, failed)) in minutes.iter().enumerate() {
                @let (done, failed) = (size(*done), size(*failed));
                @if done > 0 { rect.good x=(index * 2) y=(HEIGHT - done) width="1.5" height=(done) {} }
                @let top = (HEIGHT - done - failed).max(0);
                @if failed > 0 { rect.bad x=(index * 2) y=(top) width="1.5" height=(failed) {} }
            }
        }
        " " (words)
    }
}

/// Queues of endpoints exist whether or not there are endpoints.
pub(super) fn is_used(queue: &QueueDepth, endpoints: &[EndpointRow]) -> bool {
    let is_of_endpoint = Queue::DELIVERIES.iter().any(|other| other.as_str() == queue.queue);
    let has_jobs = queue.waiting + queue.scheduled + queue.running + queue.dead > 0;
    let mut of_endpoints = endpoints.iter().filter_map(EndpointRow::queue);
    has_jobs || !is_of_endpoint || of_endpoints.any(|other| other.as_str() == queue.queue)
}

fn figures(board: &Board, snapshot: &Snapshot) -> Markup {
    let failed = link(INBOX, &[("state", Some("failed"))]);
    let mail = match &snapshot.circuit {
        None => html! { "mails are sent" },
        Some(circuit) => html! {
            "all mails wait since " (time(circuit.since, snapshot.at)) "; next attempt "
            (time(circuit.probe_at, snapshot.at)) ". The server says: " (circuit.reason)
        },
    };
    let schema = if snapshot.is_migrated {
        "up to date"
    } else {
        "older than this version"
    };
    let is_of_clerk = |queue: &&QueueDepth| queue.queue == Queue::ProcessClerkEvent.as_str();
    let lag = snapshot
        .queues
        .iter()
        .find(is_of_clerk)
        .map_or(0.0, |queue| queue.oldest_age);
    html! {
        h2 { "Service" }
        (details(&[
            ("Events from Clerk", Some(html! {
                (snapshot.received) " in the last minute, the oldest waits for " (format!("{lag:.0}")) " s, "
                a href=(failed) { (snapshot.failed_events) " failed" }
            })),
            ("Events for the app", Some(html! {
                (snapshot.outgoing.unnumbered) " without a number, " (snapshot.outgoing.dead) " dead deliveries"
            })),
            ("Mail", Some(mail)),
            ("Database", Some(text(database_of(board)))),
            ("Schema", Some(text(schema))),
            ("Version", Some(text(crate::VERSION))),
        ]))
    }
}

/// The kind and the host, without user and password.
fn database_of(board: &Board) -> String {
    let url = Url::parse(board.app.config.database_url.expose()).ok();
    url.map_or_else(
        || "unknown".to_owned(),
        |url| match url.host_str().filter(|host| !host.is_empty()) {
            Some(host) if url.scheme() != "sqlite" => format!("{} on {host}", url.scheme()),
            _ => url.scheme().to_owned(),
        },
    )
}

fn endpoints(snapshot: &Snapshot) -> Markup {
    if snapshot.endpoints.is_empty() {
        return html! {};
    }
    let rows = html! {
        @for endpoint in &snapshot.endpoints {
            tr {
                th scope="row" { (endpoint.name) }
                td {
                    @if let Some(at) = endpoint.disabled_at {
                        "disabled " (time(at, snapshot.at)) ": "
                        (endpoint.disabled_reason.as_deref().unwrap_or("no reason"))
                    } @else { "enabled" }
                }
            }
        }
    };
    table("Endpoints of the app", &["Endpoint", "State"], rows)
}

fn processes(snapshot: &Snapshot, workers: &[(Queue, bool)]) -> Markup {
    let alive = workers.iter().filter(|(_, alive)| *alive).count();
    let rows = html! {
        @for held in &snapshot.held {
            tr { th scope="row" { (held.worker) } td { (held.queue) } td.number { (held.jobs) } }
        }
    };
    html! {
        h2 { "Workers" }
        @if workers.is_empty() {
            p { "This process runs no jobs." }
        } @else {
            p { (alive) " of " (workers.len()) " workers of this process run." }
        }
        @if !snapshot.held.is_empty() {
            (table("Jobs that workers hold, in all processes", &["Worker", "Queue", "Jobs"], rows))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_what_failed_above_what_is_done() {
        let drawn = sparkline(&[(0, 0), (24, 0), (1, 5)]).into_string();
        assert!(drawn.contains("25 done, 5 failed"), "{drawn}");
        assert_eq!(drawn.matches("<rect").count(), 3, "{drawn}");
        assert!(
            drawn.contains(r#"<rect class="bad" x="4" y="18" width="1.5" height="5">"#),
            "{drawn}"
        );
    }
}
