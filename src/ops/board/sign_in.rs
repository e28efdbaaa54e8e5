//! Signing in to the board, and out.

use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use maud::html;
use serde::Deserialize;

use super::access::{Posted, peer};
use super::layout::{document, refusal};
use super::session::LIFETIME;
use super::viewer::{COOKIE, Viewer};
use super::{Board, OVERVIEW, SIGN_IN};
use crate::repair;
use crate::store::AuditDoor;

#[derive(Deserialize)]
pub(super) struct Asked {
    next: Option<String>,
}

/// The page with the form; who is signed in, or can't sign in, goes on at once.
pub(super) async fn show(
    State(board): State<Board>,
    viewer: Option<Extension<Viewer>>,
    Query(asked): Query<Asked>,
) -> Response {
    let next = own_page(asked.next.as_deref());
    let is_signed_in = viewer.is_some_and(|Extension(viewer)| viewer.name.is_some());
    if is_signed_in || board.access.keys.is_empty() {
        return Redirect::to(next).into_response();
    }
    form(StatusCode::OK, next, None)
}

/// Checks the key. Failures are limited by address, and in the audit.
pub(super) async fn sign_in(State(board): State<Board>, request: Request) -> Response {
    let posted = request.extensions().get::<Posted>().cloned().unwrap_or_default();
    let next = own_page(posted.get("next")).to_owned();
    if let Err(seconds) = board.may_try(peer(&request)) {
        let text = format!("Too many attempts. Try again in {seconds} s.");
        return refusal(StatusCode::TOO_MANY_REQUESTS, "Wait a moment", &text);
    }
    match board.access.keys.find(posted.get("key").unwrap_or_default().trim()) {
        Some((key, _)) => {
            let cookie = board.sessions.issue(key, board.app.clock.now());
            tracing::info!(ops.key = key.name, "signed in to the board");
            with_cookie(Redirect::to(&next).into_response(), &cookie, LIFETIME.num_seconds())
        }
        None => {
            repair::refuse(&board.app.store, board.operator(None), "sign in", "no key is like that").await;
            form(
                StatusCode::UNAUTHORIZED,
                &next,
                Some("USHER_OPS_KEYS has no such key. An API key does not open the board."),
            )
        }
    }
}

pub(super) async fn sign_out() -> Response {
    with_cookie(Redirect::to(SIGN_IN).into_response(), "", 0)
}

fn form(status: StatusCode, next: &str, error: Option<&str>) -> Response {
    let page = document(
        "Sign in",
        html! {
            main id="main" tabindex="-1" class="narrow" {
                h1 { "Sign in to the board" }
                form.stack method="post" action=(SIGN_IN) {
                    @if let Some(error) = error { p.problem role="alert" { (error) } }
                    label for="key" { "Ops key" }
                    input #key type="password" name="key" required autocomplete="current-password"
                        aria-invalid=[error.map(|_| "true")];
                    input type="hidden" name="next" value=(next);
                    button.first type="submit" { "Sign in" }
                }
                p.muted { "`usher ops-key` makes one; its entry belongs in USHER_OPS_KEYS." }
            }
        },
    );
    (status, Html(page.into_string())).into_response()
}

/// A page of the board: a made-up link must not lead elsewhere.
fn own_page(next: Option<&str>) -> &str {
    let is_own = |next: &&str| {
        let rest = next.strip_prefix(OVERVIEW);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
            && next.is_ascii()
            && !next.contains('\\')
    };
    next.filter(is_own).unwrap_or(OVERVIEW)
}

/// Without `Secure`, since an SSH tunnel ends at plain HTTP; `Lax`, so that a link from a chat opens signed in.
fn with_cookie(mut response: Response, value: &str, seconds: i64) -> Response {
    let cookie = format!("{COOKIE}={value}; Path={OVERVIEW}; Max-Age={seconds}; HttpOnly; SameSite=Lax");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

impl Board {
    /// Who acts, for the audit.
    pub(super) fn operator(&self, viewer: Option<&Viewer>) -> repair::Operator {
        let name = viewer.and_then(|viewer| viewer.name.clone());
        repair::Operator {
            name: name.unwrap_or_else(|| "not signed in".to_owned()),
            door: AuditDoor::Board,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_pages_of_the_board_only() {
        for own in ["/board", "/board/jobs?state=dead", "/board?hold=1"] {
            assert_eq!(own_page(Some(own)), own);
        }
        for foreign in [
            "//evil.example",
            "https://evil.example",
            "/boarding",
            "/metrics",
            "",
            "/board/\\evil",
        ] {
            assert_eq!(own_page(Some(foreign)), OVERVIEW, "{foreign}");
        }
    }
}
