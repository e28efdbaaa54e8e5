//! The jobs: a list with filters, and one job with its attempts and what it is about.

use std::collections::HashMap;

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde_json::Value;
use uuid::Uuid;

use super::invites::INVITES;
use super::layout::{CELL, Page, Section, capitalized, cut, details, message, state, table, text, time, whole_time};
use super::live::Refresh;
use super::query::{Asked, link, link_with, segment};
use super::viewer::Viewer;
use super::{Board, INBOX, JOBS, Unavailable};
use crate::repair::JobAction;
use crate::store::{FailedAttempt, JobFilter, JobState, JobView, Queue, StoreError, Tx};

/// Rows of a page.
const PAGE: u32 = 50;
pub(super) const CHANGE: &str = "/board/jobs/change";

/// The filters of a list of jobs, as the address has them.
pub(super) struct JobQuery {
    pub id: Option<String>,
    queue: Option<Queue>,
    pub state: Option<JobState>,
    error: Option<String>,
    /// An age, which moves on.
    older: Option<String>,
    pub before: Option<DateTime<Utc>>,
    /// The id of an event, a delivery or an invite.
    about: Option<String>,
}

impl JobQuery {
    pub(super) fn read(asked: &mut Asked, now: DateTime<Utc>) -> Self {
        Self {
            id: asked.text("id"),
            queue: asked.name("queue", Queue::ALL),
            state: asked.name("state", JobState::ALL),
            error: asked.text("error"),
            older: asked.text("older"),
            before: asked.time("older", now),
            about: asked.text("about"),
        }
    }

    pub(super) async fn filter(&self, tx: &mut Tx) -> Result<JobFilter, StoreError> {
        let filter = JobFilter {
            ids: self.id.iter().cloned().collect(),
            queue: self.queue,
            states: self.state.into_iter().collect(),
            before: self.before,
            error: self.error.clone(),
            about: match &self.about {
                Some(id) => Some(with_mails(tx, id).await?),
                None => None,
            },
            ..JobFilter::default()
        };
        tx.narrowed(filter).await
    }

    /// For addresses and forms.
    pub(super) fn fields(&self) -> Vec<(&'static str, Option<&str>)> {
        vec![
            ("id", self.id.as_deref()),
            ("queue", self.queue.map(Queue::as_str)),
            ("state", self.state.map(JobState::as_str)),
            ("error", self.error.as_deref()),
            ("older", self.older.as_deref()),
            ("about", self.about.as_deref()),
        ]
    }
}

/// An id, and the ids of the mails about it if it is an invite's.
async fn with_mails(tx: &mut Tx, id: &str) -> Result<Vec<String>, StoreError> {
    let mut about = vec![id.to_owned()];
    if let Ok(invite) = id.parse::<Uuid>() {
        let mails = tx.deliveries_of(invite).await?;
        about.extend(mails.into_iter().map(|mail| mail.id.to_string()));
    }
    Ok(about)
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
        section: Section::Jobs,
        title: "Jobs",
        live: true,
    };
    Ok(page.show(&viewer, body))
}

async fn list_body(board: &Board, viewer: &Viewer, fields: HashMap<String, String>) -> Result<Markup, StoreError> {
    let now = board.app.clock.now();
    let mut asked = Asked::new(fields);
    let query = JobQuery::read(&mut asked, now);
    let below = asked.text("below");
    let problem = asked.all_wrong();
    let jobs = if problem.is_none() {
        let mut tx = board.app.store.read().await?;
        let filter = JobFilter {
            below,
            ..query.filter(&mut tx).await?
        };
        tx.jobs(&filter, PAGE).await?
    } else {
        Vec::new()
    };
    Ok(html! {
        (filters(&query))
        @if let Some(problem) = &problem { p.problem role="alert" { (problem) "." } }
        @else { (rows(&jobs, now)) (next_page(&query, &jobs)) (bulk(&query, viewer, &jobs)) }
    })
}

fn filters(query: &JobQuery) -> Markup {
    let option = |name: &'static str, chosen: bool| html! { option value=(name) selected[chosen] { (name) } };
    html! {
        form.filters method="get" action=(JOBS) role="search" aria-label="Filter jobs" {
            label { "Queue"
                select name="queue" {
                    option value="" { "all" }
                    @for &queue in Queue::ALL { (option(queue.as_str(), query.queue == Some(queue))) }
                }
            }
            label { "State"
                select name="state" {
                    option value="" { "all but done" }
                    @for &state in JobState::ALL { (option(state.as_str(), query.state == Some(state))) }
                }
            }
            label { "Words of the error" input type="search" name="error" value=[query.error.as_deref()]; }
            label { "Older than"
                input type="text" name="older" size="6" placeholder="36h" value=[query.older.as_deref()];
            }
            label { "Event, mail or invite"
                input type="search" name="about" placeholder="id" value=[query.about.as_deref()];
            }
            button type="submit" { "Filter" }
        }
    }
}

fn rows(jobs: &[JobView], now: DateTime<Utc>) -> Markup {
    if jobs.is_empty() {
        return html! { p { "No job is like that." } };
    }
    let heads = ["Job", "Queue", "State", "Attempts", "Enqueued", "Due", "Last error"];
    let rows = html! {
        @for job in jobs {
            tr {
                th scope="row" { a href=(segment(JOBS, &job.id)) { code { (job.id) } } }
                td { (job.queue) }
                td { (state(job.state.as_str())) }
                td.number { (job.attempts) }
                td { @if let Some(at) = job.enqueued_at { (time(at, now)) } }
                td { @if let Some(at) = job.due_at { (time(at, now)) } }
                td.long { (cut(job.error.as_deref().unwrap_or_default(), CELL)) }
            }
        }
    };
    table("Jobs, newest first", &heads, rows)
}

fn next_page(query: &JobQuery, jobs: &[JobView]) -> Markup {
    let last = jobs.last().filter(|_| jobs.len() == PAGE as usize);
    html! {
        @if let Some(last) = last {
            p { a href=(link_with(JOBS, query.fields(), "below", &last.id)) rel="next" { "Older jobs" } }
        }
    }
}

/// What can be done to all that match.
fn bulk(query: &JobQuery, viewer: &Viewer, jobs: &[JobView]) -> Markup {
    let is_possible = |action: &JobAction| query.state.is_none_or(|state| action.states().contains(&state));
    html! {
        @if viewer.operates() && !jobs.is_empty() {
            nav.actions aria-label="All that match" {
                @for action in JobAction::ALL.into_iter().filter(is_possible) {
                    a.button href=(link_with(CHANGE, query.fields(), "action", action.verb())) {
                        (capitalized(action.verb())) " all that match…"
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
) -> Result<Response, Unavailable> {
    let mut tx = board.app.store.read().await?;
    let filter = JobFilter {
        ids: vec![id.clone()],
        ..JobFilter::default()
    };
    let Some(job) = tx.jobs(&filter, 1).await?.into_iter().next() else {
        let text = format!("There is no job {id}. Finished jobs are deleted after a while.");
        return Ok(message(
            Section::Jobs,
            &viewer,
            StatusCode::NOT_FOUND,
            "No such job",
            &text,
        ));
    };
    let failures = tx.failures_of_job(&id).await?;
    let invite = match delivery_in(&job.payload) {
        Some(delivery) => tx.invite_of_delivery(delivery).await?,
        None => None,
    };
    let now = board.app.clock.now();
    let page = Page {
        section: Section::Jobs,
        title: &format!("Job {}", job.id),
        live: true,
    };
    let body = html! {
        (about_job(&job, invite, now))
        (actions(&job, &viewer))
        (attempts(&failures, now))
    };
    Ok(page.show(&viewer, body))
}

/// The mail that a job sends.
fn delivery_in(payload: &str) -> Option<Uuid> {
    let payload: Value = serde_json::from_str(payload).ok()?;
    payload["delivery_id"].as_str()?.parse().ok()
}

fn about_job(job: &JobView, invite: Option<Uuid>, now: DateTime<Utc>) -> Markup {
    let invite = invite.map(|id| id.to_string());
    let at = |at: Option<DateTime<Utc>>| at.map(|at| whole_time(at, now));
    html! {
        (details(&[
            ("Queue", Some(html! { a href=(link(JOBS, &[("queue", Some(&job.queue))])) { (job.queue) } })),
            ("State", Some(state(job.state.as_str()))),
            ("About", Some(about(&job.payload))),
            ("Invite", invite.map(|id| html! { a href=(segment(INVITES, &id)) { code { (id) } } })),
            ("Enqueued", at(job.enqueued_at)),
            ("Due", at(job.due_at)),
            ("Attempts", Some(text(job.attempts.to_string()))),
            ("Ended", at(job.ended_at)),
            ("Worker", job.worker.as_deref().map(text)),
            ("Last error", job.error.as_deref().map(|error| text(cut(error, MAX_ERROR)))),
        ]))
    }
}

/// The ids that a job carries, with links.
fn about(payload: &str) -> Markup {
    let Some(Value::Object(fields)) = serde_json::from_str(payload).ok() else {
        return html! { code { (payload) } };
    };
    let address = |name: &str, value: &str| match name {
        "svix_id" => Some(segment(INBOX, value)),
        "delivery_id" | "event_id" => Some(link(JOBS, &[("about", Some(value))])),
        _ => None,
    };
    html! {
        @for (name, value) in &fields {
            @let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            div {
                (name) " "
                @if let Some(address) = address(name, &value) { a href=(address) { code { (value) } } }
                @else { code { (value) } }
            }
        }
    }
}

fn actions(job: &JobView, viewer: &Viewer) -> Markup {
    html! {
        @if viewer.operates() {
            nav.actions aria-label="Actions" {
                @for action in JobAction::ALL.into_iter().filter(|action| action.states().contains(&job.state)) {
                    @let address = link(CHANGE, &[("id", Some(&job.id)), ("action", Some(action.verb()))]);
                    a.button href=(address) { (capitalized(action.verb())) "…" }
                }
            }
        }
    }
}

/// Characters of an error on its own page.
pub(super) const MAX_ERROR: usize = 4_000;
/// Rows of failed attempts: those of one job, or the newest of several.
const MAX_ATTEMPTS: usize = 60;

/// Failed attempts, of one job or of all that are about one event.
pub(super) fn attempts(failures: &[FailedAttempt], now: DateTime<Utc>) -> Markup {
    if failures.is_empty() {
        return html! {};
    }
    let failures = &failures[failures.len().saturating_sub(MAX_ATTEMPTS)..];
    let rows = html! {
        @for failure in failures {
            tr {
                td.number { (failure.attempt) }
                td { (time(failure.failed_at, now)) }
                td { a href=(segment(JOBS, &failure.job_id)) { code { (failure.job_id) } } }
                td.long { (cut(&failure.error, CELL)) }
            }
        }
    };
    table(
        "Failed attempts, oldest first",
        &["Attempt", "Failed", "Job", "Error"],
        rows,
    )
}
