//! What all pages of the board have in common.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use maud::{DOCTYPE, Markup, html};

use super::access::TOKEN_FIELD;
use super::viewer::Viewer;
use super::{AUDIT, INBOX, JOBS, OVERVIEW, QUEUES, SCHEDULES, SIGN_OUT};
use crate::clock::distance;

/// The pages that the navigation leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Jobs,
    Inbox,
    Queues,
    Schedules,
    Audit,
}

impl Section {
    const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::Overview, OVERVIEW, "Overview"),
        (Self::Jobs, JOBS, "Jobs"),
        (Self::Inbox, INBOX, "Inbox"),
        (Self::Queues, QUEUES, "Queues"),
        (Self::Schedules, SCHEDULES, "Schedules"),
        (Self::Audit, AUDIT, "Audit"),
    ];
}

/// A page with the navigation. `live` pages are refreshed by the script.
pub(super) struct Page<'a> {
    pub section: Section,
    pub title: &'a str,
    pub live: bool,
}

impl Page<'_> {
    pub(super) fn show(&self, viewer: &Viewer, body: Markup) -> Response {
        let page = document(
            self.title,
            html! {
                header {
                    nav aria-label="Board" {
                        strong { "usher" }
                        @for (section, address, name) in Section::ALL {
                            a href=(address) aria-current=[(section == self.section).then_some("page")] { (name) }
                        }
                    }
                    (session(viewer))
                }
                main id="main" tabindex="-1" data-live=[self.live.then_some("")] {
                    h1 { (self.title) }
                    (body)
                }
            },
        );
        Html(page.into_string()).into_response()
    }
}

/// Whose session it is, and its end.
fn session(viewer: &Viewer) -> Markup {
    html! {
        div.session {
            @match &viewer.name {
                Some(name) => {
                    span { (name) " (" (viewer.role) ")" }
                    @if viewer.has_session {
                        form method="post" action=(SIGN_OUT) {
                            (token(viewer))
                            button type="submit" { "Sign out" }
                        }
                    }
                }
                None => { span { "looks only: USHER_OPS_KEYS is not set" } }
            }
        }
    }
}

/// The field that proves that a form is the session's own.
pub(super) fn token(viewer: &Viewer) -> Markup {
    html! { input type="hidden" name=(TOKEN_FIELD) value=(viewer.token); }
}

/// A page with one message, when a request may not go on.
pub(super) fn refusal(status: StatusCode, title: &str, text: &str) -> Response {
    let page = document(
        title,
        html! {
            main id="main" tabindex="-1" {
                h1 { (title) }
                p { (text) }
                p { a href=(OVERVIEW) { "To the board" } }
            }
        },
    );
    (status, Html(page.into_string())).into_response()
}

/// While the database does not answer.
pub(super) fn unavailable() -> Response {
    let text = "The log says why. The board goes on as soon as the database answers.";
    refusal(StatusCode::SERVICE_UNAVAILABLE, "The database does not answer", text)
}

/// The same within the navigation.
pub(super) fn message(section: Section, viewer: &Viewer, status: StatusCode, title: &str, text: &str) -> Response {
    let page = Page {
        section,
        title,
        live: false,
    };
    (status, page.show(viewer, html! { p { (text) } })).into_response()
}

pub(super) fn document(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · usher" }
                link rel="icon" href="/board/icon.svg";
                link rel="stylesheet" href="/board/board.css";
                script src="/board/board.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                (body)
            }
        }
    }
}

/// A time as its distance; the whole time is its title.
pub(super) fn time(at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let whole = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    html! { time datetime=(whole) title=(whole) { (distance(at, now)) } }
}

/// A time in full, with its distance.
pub(super) fn whole_time(at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let whole = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    html! { time datetime=(whole) { (whole) } " (" (distance(at, now)) ")" }
}

/// A label for a state, with a colour for those that need attention.
pub(super) fn state(name: &str) -> Markup {
    html! { span class={ "state " (name) } { (name) } }
}

/// A table that scrolls within itself on narrow screens. The region can be reached by keyboard, to scroll it.
pub(super) fn table(caption: &str, heads: &[&str], rows: Markup) -> Markup {
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody { (rows) }
            }
        }
    }
}

/// Pairs of a name and a value; those without a value are left out.
pub(super) fn details(pairs: &[(&str, Option<Markup>)]) -> Markup {
    html! {
        dl {
            @for (name, value) in pairs {
                @if let Some(value) = value {
                    div { dt { (name) } dd { (value) } }
                }
            }
        }
    }
}

pub(super) fn text(value: impl AsRef<str>) -> Markup {
    html! { (value.as_ref()) }
}

/// The beginning of a text that others wrote: a page stays small, whatever its rows say.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Characters of a cell in a list.
pub(super) const CELL: usize = 240;

/// With a capital letter at the beginning.
pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}", first.unwrap_or_default(), characters.as_str())
}
