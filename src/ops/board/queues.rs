//! The queues: pausing them with a reason, and resuming them.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::access::Posted;
use super::change::conflict;
use super::layout::{Page, Section, message, table, time, token, unavailable};
use super::overview::is_used;
use super::query::{Asked, link};
use super::viewer::Viewer;
use super::{Board, JOBS, QUEUES, Unavailable};
use crate::repair::{self, RepairError};
use crate::store::{PausedQueue, Queue};

pub(super) async fn list(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
) -> Result<Response, Unavailable> {
    let store = &board.app.store;
    let mut tx = store.read().await?;
    let (paused, endpoints) = (tx.paused_queues().await?, tx.endpoints().await?);
    drop(tx);
    let known = board.snapshots.get(store).await;
    let Ok(snapshot) = known.as_ref() else {
        return Ok(unavailable());
    };
    let depths = &snapshot.queues;
    let now = store.now();
    let rows = html! {
        @for depth in depths {
            @let pause = paused.iter().find(|row| row.queue.as_str() == depth.queue);
            @if pause.is_some() || is_used(depth, &endpoints) { tr {
                th scope="row" { a href=(link(JOBS, &[("queue", Some(depth.queue))])) { (depth.queue) } }
                td.number { (depth.waiting) }
                td.number { (depth.running) }
                td.long {
                    @match pause {
                        Some(pause) => {
                            "paused " (time(pause.since, now)) " by " (pause.paused_by) ": " (pause.reason)
                        }
                        None => { "runs" }
                    }
                }
                @if viewer.operates() { td { (form(depth.queue, pause, &viewer)) } }
            } }
        }
    };
    let mut heads = vec!["Queue", "Waiting", "Running", "State"];
    if viewer.operates() {
        heads.push("Change");
    }
    let body = html! {
        p { "The jobs of a paused queue wait; what runs ends first. All processes follow within seconds." }
        (table("Queues", &heads, rows))
    };
    let page = Page {
        section: Section::Queues,
        title: "Queues",
        live: true,
    };
    Ok(page.show(&viewer, body))
}

fn form(queue: &str, pause: Option<&PausedQueue>, viewer: &Viewer) -> Markup {
    html! {
        form.actions method="post" action=(QUEUES) {
            (token(viewer))
            input type="hidden" name="queue" value=(queue);
            @if pause.is_some() {
                button type="submit" name="action" value="resume" aria-label={ "Resume " (queue) } { "Resume" }
            } @else {
                input type="text" name="reason" required maxlength="200" placeholder="reason"
                    aria-label={ "Reason to pause " (queue) };
                button type="submit" name="action" value="pause" aria-label={ "Pause " (queue) } { "Pause" }
            }
        }
    }
}

pub(super) async fn change(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Extension(posted): Extension<Posted>,
) -> Result<Response, Unavailable> {
    let (store, operator) = (&board.app.store, board.operator(Some(&viewer)));
    let mut asked = Asked::new(posted.fields());
    let queue = asked.name("queue", Queue::ALL);
    let wrong = |text: &str| {
        message(
            Section::Queues,
            &viewer,
            StatusCode::BAD_REQUEST,
            "Nothing was changed",
            text,
        )
    };
    let Some(queue) = queue else {
        let problem = asked.all_wrong();
        return Ok(wrong(&problem.unwrap_or_else(|| "queue is missing".to_owned())));
    };
    let changed = match posted.get("action") {
        Some("pause") => {
            let reason = posted.get("reason").unwrap_or_default();
            repair::pause_queue(store, operator, queue, reason).await
        }
        Some("resume") => repair::resume_queue(store, operator, queue).await,
        _ => return Ok(wrong("action must be pause or resume")),
    };
    match changed {
        Ok(()) => Ok(Redirect::to(QUEUES).into_response()),
        Err(RepairError::Store(error)) => Err(error.into()),
        Err(error) => Ok(conflict(Section::Queues, &viewer, &error)),
    }
}
