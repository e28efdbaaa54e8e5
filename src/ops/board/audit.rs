//! The audit: who changed what by hand, how many, and when.

use std::collections::HashMap;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};

use super::layout::{CELL, Page, Section, cut, table, time};
use super::live::Refresh;
use super::query::{Asked, link};
use super::viewer::Viewer;
use super::{AUDIT, Board, Unavailable};
use crate::store::StoreError;

const HEADS: [&str; 7] = ["When", "Who", "Where", "What", "Which", "Changed", "Refused"];
/// Rows of a page.
const PAGE: u32 = 50;

pub(super) async fn list(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    refresh: Refresh,
    Query(fields): Query<HashMap<String, String>>,
) -> Result<Response, Unavailable> {
    let body = board.live.body(refresh, &viewer, list_body(&board, fields)).await?;
    let page = Page {
        section: Section::Audit,
        title: "Audit",
        live: true,
    };
    Ok(page.show(&viewer, body))
}

async fn list_body(board: &Board, fields: HashMap<String, String>) -> Result<Markup, StoreError> {
    let below = Asked::new(fields).text("below").and_then(|id| id.parse().ok());
    let entries = board.app.store.read().await?.audit(below, PAGE).await?;
    let now = board.app.clock.now();
    let rows = html! {
        @for entry in &entries {
            tr {
                td { (time(entry.at, now)) }
                td { (entry.who) }
                td { (entry.door) }
                td { (entry.action) }
                td.long { (cut(&entry.subject, CELL)) }
                td.number { (entry.changed) }
                td.long { @if let Some(why) = &entry.refused { (cut(why, CELL)) } }
            }
        }
    };
    let last = entries.last().filter(|_| entries.len() == PAGE as usize);
    Ok(html! {
        @if entries.is_empty() { p { "Nothing was changed by hand." } }
        @else { (table("Changes by hand, newest first", &HEADS, rows)) }
        @if let Some(last) = last {
            p { a href=(link(AUDIT, &[("below", Some(&last.id.to_string()))])) rel="next" { "Older changes" } }
        }
    })
}
