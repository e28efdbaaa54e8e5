//! Changes of one or many: the page before says how many there are and what is lost, the form after changes them in
//! batches, and goes on with another form if there are too many for one answer.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, Utc};
use maud::{Markup, html};
use tokio::time::Instant;

use super::access::Posted;
use super::inbox::{self, EventQuery, key_of, key_text};
use super::jobs::{self, JobQuery};
use super::layout::{Page, Section, capitalized, message, token};
use super::query::{Asked, link};
use super::viewer::Viewer;
use super::{AUDIT, Board, INBOX, JOBS, Unavailable};
use crate::repair::{EventAction, EventChange, JobAction, JobChange, RepairError};
use crate::store::{EventFilter, JobFilter};

/// How long one answer works. Then the page shows how far it is, and goes on.
const ONE_ANSWER: Duration = Duration::from_secs(2);

/// What a page asks before.
struct Question<'a> {
    section: Section,
    /// Where the form goes.
    address: &'a str,
    verb: &'a str,
    /// Such as `3 jobs: 3 send-mail`.
    what: String,
    loss: &'a str,
    /// How to leave it.
    back: String,
    /// The filters, how far the count reached, and how many there are.
    fields: Vec<(&'static str, Option<String>)>,
}

impl Question<'_> {
    fn show(&self, viewer: &Viewer) -> Response {
        let page = Page {
            section: self.section,
            title: &format!("{} {}?", capitalized(self.verb), self.what),
            live: false,
        };
        let body = html! {
            p { (self.loss) " What comes meanwhile is not touched." }
            form.actions method="post" action=(self.address) {
                (token(viewer))
                (hidden(&self.fields))
                button.first type="submit" { (capitalized(self.verb)) }
                a.button href=(self.back) { "Back" }
            }
        };
        page.show(viewer, body)
    }
}

/// What a page shows after.
struct Outcome<'a> {
    section: Section,
    address: &'a str,
    done: &'a str,
    noun: &'a str,
    changed: u64,
    total: u64,
    /// With what it goes on; `None` at the end.
    fields: Option<Vec<(&'static str, Option<String>)>>,
    back: &'a str,
}

impl Outcome<'_> {
    fn show(self, viewer: &Viewer) -> Response {
        let title = format!("{} {} {}", self.changed, plural(self.noun, self.changed), self.done);
        let page = Page {
            section: self.section,
            title: &title,
            live: false,
        };
        let body = html! {
            @match &self.fields {
                Some(fields) => {
                    p role="status" { "Of " (self.total) ". It goes on while this page is open." }
                    progress max=(self.total) value=(self.changed) aria-label="Progress" {}
                    form.actions method="post" action=(self.address) data-continue {
                        (token(viewer))
                        (hidden(fields))
                        button.first type="submit" { "Go on" }
                        a.button href=(self.back) { "Stop" }
                    }
                }
                None => {
                    p role="status" { "Done. " a href=(AUDIT) { "The audit" } " has it." }
                    p { a.button href=(self.back) { "Back to the list" } }
                }
            }
        };
        page.show(viewer, body)
    }
}

fn hidden(fields: &[(&'static str, Option<String>)]) -> Markup {
    html! {
        @for (name, value) in fields {
            @if let Some(value) = value { input type="hidden" name=(name) value=(value); }
        }
    }
}

pub(super) async fn ask_jobs(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Query(fields): Query<HashMap<String, String>>,
) -> Result<Response, Unavailable> {
    let store = &board.app.store;
    let mut asked = Asked::new(fields);
    let query = JobQuery::read(&mut asked, store.now());
    let action = action(&mut asked, &JobAction::ALL, JobAction::verb);
    let (Some(action), None, true) = (action, asked.all_wrong(), viewer.operates()) else {
        return Ok(impossible(Section::Jobs, &viewer, &asked));
    };
    let filter = query.filter(&mut store.read().await?).await?;
    let change = match JobChange::count(store, board.operator(Some(&viewer)), action, filter).await {
        Ok(change) => change,
        Err(RepairError::Store(error)) => return Err(error.into()),
        Err(error) => return Ok(conflict(Section::Jobs, &viewer, &error)),
    };
    let total = change.counted.total();
    let queues: Vec<String> = change
        .counted
        .queues
        .iter()
        .map(|(queue, jobs)| format!("{jobs} {queue}"))
        .collect();
    let mut form = owned(&query.fields());
    // An age moves on; as a time it is the same for all answers of one change, which share an entry of the audit.
    form.retain(|(name, _)| *name != "older");
    form.push(("older", query.before.map(frozen)));
    form.push(("action", Some(action.verb().to_owned())));
    form.push(("through", change.through().map(str::to_owned)));
    form.push(("total", Some(total.to_string())));
    let question = Question {
        section: Section::Jobs,
        address: jobs::CHANGE,
        verb: action.verb(),
        what: format!("{total} {}: {}", plural("job", total), queues.join(", ")),
        loss: action.loss(),
        back: link(JOBS, &query.fields()),
        fields: form,
    };
    Ok(question.show(&viewer))
}

pub(super) async fn change_jobs(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Extension(posted): Extension<Posted>,
) -> Result<Response, Unavailable> {
    let store = &board.app.store;
    let mut asked = Asked::new(posted.fields());
    let query = JobQuery::read(&mut asked, store.now());
    let action = action(&mut asked, &JobAction::ALL, JobAction::verb);
    let through = required(&mut asked, "through");
    let so_far = Progress::read(&mut asked);
    let beyond = asked.text("beyond");
    let (Some(action), None) = (action, asked.all_wrong()) else {
        return Ok(impossible(Section::Jobs, &viewer, &asked));
    };
    let filter = JobFilter {
        through,
        beyond,
        ..query.filter(&mut store.read().await?).await?
    };
    let operator = board.operator(Some(&viewer));
    let resumed = JobChange::resume(store, operator, action, filter, so_far.entry);
    let mut change = match resumed {
        Ok(change) => change,
        Err(error) => return Ok(conflict(Section::Jobs, &viewer, &error)),
    };
    let (began, mut changed, mut is_done) = (Instant::now(), so_far.changed, false);
    while !is_done && began.elapsed() < ONE_ANSWER {
        match change.next_batch(store).await? {
            Some(batch) => changed += batch,
            None => is_done = true,
        }
    }
    let fields = (!is_done).then(|| {
        let mut form = owned(&query.fields());
        form.push(("action", Some(action.verb().to_owned())));
        form.push(("through", change.through().map(str::to_owned)));
        form.push(("beyond", change.beyond().map(str::to_owned)));
        form.extend(so_far.with(changed, change.entry()));
        form
    });
    let outcome = Outcome {
        section: Section::Jobs,
        address: jobs::CHANGE,
        done: action.done(),
        noun: "job",
        changed,
        total: so_far.total,
        fields,
        back: JOBS,
    };
    Ok(outcome.show(&viewer))
}

pub(super) async fn ask_events(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Query(fields): Query<HashMap<String, String>>,
) -> Result<Response, Unavailable> {
    let store = &board.app.store;
    let mut asked = Asked::new(fields);
    let query = EventQuery::read(&mut asked, store.now());
    let action = action(&mut asked, &EventAction::ALL, EventAction::verb);
    let (Some(action), None, true) = (action, asked.all_wrong(), viewer.operates()) else {
        return Ok(impossible(Section::Inbox, &viewer, &asked));
    };
    let mut form = owned(&query.fields());
    form.push(("action", Some(action.verb().to_owned())));
    let what = if let Some(id) = &query.id {
        format!("event {id}")
    } else {
        let operator = board.operator(Some(&viewer));
        let change = match EventChange::count(store, operator, action, query.filter()).await {
            Ok(change) => change,
            Err(RepairError::Store(error)) => return Err(error.into()),
            Err(error) => return Ok(conflict(Section::Inbox, &viewer, &error)),
        };
        form.retain(|(name, _)| *name != "before" && *name != "since");
        form.push(("since", query.filter().since.map(frozen)));
        form.push(("before", change.before().map(frozen)));
        form.push(("total", Some(change.counted.to_string())));
        format!(
            "{} {} {}",
            change.counted,
            change.state(),
            plural("event", change.counted)
        )
    };
    let question = Question {
        section: Section::Inbox,
        address: inbox::CHANGE,
        verb: action.verb(),
        what,
        loss: action.loss(),
        back: link(INBOX, &query.fields()),
        fields: form,
    };
    Ok(question.show(&viewer))
}

pub(super) async fn change_events(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Extension(posted): Extension<Posted>,
) -> Result<Response, Unavailable> {
    let store = &board.app.store;
    let mut asked = Asked::new(posted.fields());
    let query = EventQuery::read(&mut asked, store.now());
    let action = action(&mut asked, &EventAction::ALL, EventAction::verb);
    if query.id.is_none() {
        required(&mut asked, "before");
    }
    let so_far = Progress::read(&mut asked);
    let beyond = asked.text("beyond").and_then(|text| key_of(&text));
    let (Some(action), None) = (action, asked.all_wrong()) else {
        return Ok(impossible(Section::Inbox, &viewer, &asked));
    };
    let operator = board.operator(Some(&viewer));
    let outcome = |changed, total, fields| Outcome {
        section: Section::Inbox,
        address: inbox::CHANGE,
        done: action.done(),
        noun: "event",
        changed,
        total,
        fields,
        back: INBOX,
    };
    if let Some(id) = query.id {
        return Ok(match action.change_all(store, operator, &[id]).await {
            Ok(changed) => outcome(changed.len() as u64, 1, None).show(&viewer),
            Err(error) => conflict(Section::Inbox, &viewer, &error),
        });
    }
    let filter = EventFilter {
        beyond,
        ..query.filter()
    };
    let mut change = EventChange::resume(store, operator, action, filter, so_far.entry);
    let (began, mut changed, mut is_done) = (Instant::now(), so_far.changed, false);
    while !is_done && began.elapsed() < ONE_ANSWER {
        match change.next_batch(store).await? {
            Some(batch) => changed += batch,
            None => is_done = true,
        }
    }
    let fields = (!is_done).then(|| {
        let mut form = owned(&query.fields());
        form.push(("action", Some(action.verb().to_owned())));
        form.push(("beyond", change.beyond().map(key_text)));
        form.extend(so_far.with(changed, change.entry()));
        form
    });
    Ok(outcome(changed, so_far.total, fields).show(&viewer))
}

/// How far a change is.
struct Progress {
    changed: u64,
    total: u64,
    entry: Option<uuid::Uuid>,
}

impl Progress {
    fn read(asked: &mut Asked) -> Self {
        let mut number = |name| asked.text(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Self {
            changed: number("changed"),
            total: number("total"),
            entry: asked.text("entry").and_then(|text| text.parse().ok()),
        }
    }

    fn with(&self, changed: u64, entry: uuid::Uuid) -> [(&'static str, Option<String>); 3] {
        [
            ("changed", Some(changed.to_string())),
            ("total", Some(self.total.to_string())),
            ("entry", Some(entry.to_string())),
        ]
    }
}

fn action<A: Copy>(asked: &mut Asked, all: &[A], verb: fn(A) -> &'static str) -> Option<A> {
    let given = asked.text("action").unwrap_or_default();
    let found = all.iter().copied().find(|&action| verb(action) == given);
    if found.is_none() {
        let verbs: Vec<&str> = all.iter().map(|&action| verb(action)).collect();
        asked
            .problems
            .push(format!("action must be one of {}", verbs.join(", ")));
    }
    found
}

/// A form without it would also change what came later.
fn required(asked: &mut Asked, name: &'static str) -> Option<String> {
    let value = asked.text(name);
    if value.is_none() {
        asked.problems.push(format!("{name} is missing"));
    }
    value
}

fn impossible(section: Section, viewer: &Viewer, asked: &Asked) -> Response {
    match asked.all_wrong() {
        Some(problem) => message(
            section,
            viewer,
            StatusCode::BAD_REQUEST,
            "This can't be done",
            &format!("{problem}."),
        ),
        None => {
            let text = "The role `operate` is needed to change something.";
            message(section, viewer, StatusCode::FORBIDDEN, "You may only look", text)
        }
    }
}

pub(super) fn conflict(section: Section, viewer: &Viewer, error: &impl Display) -> Response {
    let text = format!("{}.", capitalized(&error.to_string()));
    message(section, viewer, StatusCode::CONFLICT, "Nothing was changed", &text)
}

fn frozen(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn owned(fields: &[(&'static str, Option<&str>)]) -> Vec<(&'static str, Option<String>)> {
    fields
        .iter()
        .map(|(name, value)| (*name, value.map(str::to_owned)))
        .collect()
}

fn plural(noun: &str, count: u64) -> String {
    format!("{noun}{}", if count == 1 { "" } else { "s" })
}
