//! Periodic work: when it ran last, how that ended, when it runs next, and running it now.

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::html;

use super::access::Posted;
use super::change::conflict;
use super::layout::{CELL, Page, Section, cut, table, time, token};
use super::viewer::Viewer;
use super::{Board, SCHEDULES, Unavailable};
use crate::repair::{self, RepairError};

pub(super) async fn list(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
) -> Result<Response, Unavailable> {
    let schedules = repair::schedules(&board.app.store).await?;
    let now = board.app.clock.now();
    let rows = html! {
        @for schedule in &schedules {
            tr {
                th scope="row" { (schedule.name) }
                td { @match schedule.last_at { Some(at) => (time(at, now)), None => "never" } }
                td { @match schedule.due_at { Some(at) => (time(at, now)), None => "at the start" } }
                td.long { (cut(schedule.last_error.as_deref().unwrap_or_default(), CELL)) }
                @if viewer.operates() {
                    td {
                        form method="post" action=(SCHEDULES) {
                            (token(&viewer))
                            input type="hidden" name="schedule" value=(schedule.name);
                            button type="submit" aria-label={ "Run now: " (schedule.name) } { "Run now" }
                        }
                    }
                }
            }
        }
    };
    let mut heads = vec!["Schedule", "Last run", "Next run", "Last error"];
    if viewer.operates() {
        heads.push("Change");
    }
    let page = Page {
        section: Section::Schedules,
        title: "Schedules",
        live: true,
    };
    Ok(page.show(&viewer, table("Periodic work", &heads, rows)))
}

pub(super) async fn run(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Extension(posted): Extension<Posted>,
) -> Result<Response, Unavailable> {
    let operator = board.operator(Some(&viewer));
    let name = posted.get("schedule").unwrap_or_default();
    match repair::run_schedule(&board.app.store, operator, name).await {
        Ok(()) => Ok(Redirect::to(SCHEDULES).into_response()),
        Err(RepairError::Store(error)) => Err(error.into()),
        Err(error) => Ok(conflict(Section::Schedules, &viewer, &error)),
    }
}
