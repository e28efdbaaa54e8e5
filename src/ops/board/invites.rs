//! One invite: what it waits for, its history and its mails, with links to their jobs and to what caused them.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use usher_base::mask::{mask, mask_addresses};
use uuid::Uuid;

use super::layout::{CELL, Page, Section, cut, details, message, state, table, text, time, whole_time};
use super::query::{link, segment};
use super::viewer::Viewer;
use super::{Board, INBOX, JOBS, Unavailable};
use crate::invite_history::{Fact, story, waits_for};
use crate::store::InviteView;

pub(super) const INVITES: &str = "/board/invites";

pub(super) async fn show(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Path(id): Path<String>,
) -> Result<Response, Unavailable> {
    let mut tx = board.app.store.read().await?;
    let views = match id.parse::<Uuid>() {
        Ok(id) => tx.invite_views(&[id]).await?,
        Err(_) => Vec::new(),
    };
    let Some(view) = views.into_iter().next() else {
        let text = format!("There is no invite {id}.");
        return Ok(message(
            Section::Jobs,
            &viewer,
            StatusCode::NOT_FOUND,
            "No such invite",
            &text,
        ));
    };
    let now = board.app.clock.now();
    let facts = story(&mut tx, &view.invite, now).await?;
    let waits_for = waits_for(&mut tx, &view, &board.app.config.roles, now).await?;
    let page = Page {
        section: Section::Jobs,
        title: &format!("Invite {}", view.invite.id),
        live: true,
    };
    let at = |at: Option<_>| at.map(|at| whole_time(at, now));
    let body = html! {
        (details(&[
            ("To", Some(text(address(&view.invite.email, &viewer)))),
            ("Into", Some(text(target(&view)))),
            ("As", Some(text(&view.invite.role))),
            ("By", view.inviter_email.as_deref().map(|email| text(address(email, &viewer)))),
            ("Status", Some(state(view.invite.status_at(now).as_str()))),
            ("Waits for", waits_for.as_deref().map(text)),
            ("No mail", view.held().map(|held| text(held.to_string()))),
            ("Created", at(Some(view.invite.created_at))),
            ("Expires", at(Some(view.invite.expires_at))),
            ("In the banner since", at(view.invite.flagged_at)),
            ("Put away", at(view.invite.dismissed_at)),
            ("Jobs", Some(html! {
                a href=(link(JOBS, &[("about", Some(&view.invite.id.to_string()))])) { "unfinished jobs about its mails" }
            })),
        ]))
        (history(&facts, &viewer, now))
    };
    Ok(page.show(&viewer, body))
}

fn history(facts: &[Fact], viewer: &Viewer, now: chrono::DateTime<chrono::Utc>) -> Markup {
    let rows = html! {
        @for fact in facts {
            tr {
                td { (time(fact.at, now)) }
                td.long {
                    @let what = cut(&fact.what, CELL);
                    @if viewer.operates() { (what) } @else { (mask_addresses(&what)) }
                }
                td {
                    @if let Some(cause) = &fact.cause {
                        // Clerk's events have such ids; a request's id leads to no page.
                        @if cause.starts_with("msg_") { a href=(segment(INBOX, cause)) { code { (cause) } } }
                        @else { code { (cause) } }
                    }
                    @if let Some(delivery) = &fact.delivery {
                        a href=(link(JOBS, &[("about", Some(&delivery.to_string()))])) { "jobs of this mail" }
                    }
                }
            }
        }
    };
    table("History, oldest first", &["When", "What", "Caused by, or jobs"], rows)
}

fn target(view: &InviteView) -> String {
    match &view.project_name {
        Some(project) => format!("{} / {project}", view.organization_name),
        None => view.organization_name.clone(),
    }
}

fn address(address: &str, viewer: &Viewer) -> String {
    if viewer.operates() {
        address.to_owned()
    } else {
        mask(address)
    }
}
