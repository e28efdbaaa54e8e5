//! The board: operators see in a browser whether all is well, and repair what isn't. Only the private listener has it.
//!
//! - `access`: who may look and change. `viewer`: who it is. `session`: their cookies. `sign_in`: how they get one.
//! - `overview`, `jobs`, `inbox`, `invites`, `queues`, `schedules`, `audit`: the pages. `layout`: what they share.
//! - `mailbox`: development's mails.
//! - `query`: their addresses. `change`: asks before many are changed. `redact`: payloads.
//! - `snapshot`: what is known of the whole service. `live`: lists that many look at.

mod access;
mod audit;
mod change;
mod inbox;
mod invites;
mod jobs;
mod layout;
mod live;
mod mailbox;
mod overview;
mod query;
mod queues;
mod redact;
mod schedules;
mod session;
mod sign_in;
mod snapshot;
mod viewer;

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};

use live::Live;
use session::Sessions;
use snapshot::Snapshots;
use viewer::Access;

use crate::app::App;
use crate::config::Config;
use crate::ops::CatalogWatch;
use crate::rate_limit::Limiter;
use crate::store::StoreError;
use crate::worker::Alive;

const OVERVIEW: &str = "/board";
const SIGN_IN: &str = "/board/sign-in";
const SIGN_OUT: &str = "/board/sign-out";
const JOBS: &str = "/board/jobs";
const INBOX: &str = "/board/inbox";
const QUEUES: &str = "/board/queues";
const SCHEDULES: &str = "/board/schedules";
const AUDIT: &str = "/board/audit";

/// Attempts to sign in and refused forms, of one address. A key can't be guessed; this keeps the audit short.
const ATTEMPTS: &str = "10/m";

#[derive(Clone)]
struct Board(Arc<Shared>);

struct Shared {
    app: App,
    access: Access,
    sessions: Sessions,
    attempts: Option<Limiter<IpAddr>>,
    snapshots: Snapshots,
    live: Live,
}

impl Deref for Board {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The pages, for the private listener. `workers` if this process runs any.
pub fn router(app: &App, workers: Option<Alive>, catalog: CatalogWatch) -> Router {
    let board = Board(Arc::new(Shared {
        access: Access::of(&app.config),
        sessions: Sessions::new(&app.config.token_keys),
        attempts: ATTEMPTS.parse().ok().and_then(|limit| Limiter::new(limit, &app.clock)),
        snapshots: Snapshots::new(workers, catalog),
        live: Live::default(),
        app: app.clone(),
    }));
    let pages = Router::new()
        .route(OVERVIEW, get(overview::show))
        .route(SIGN_IN, get(sign_in::show).post(sign_in::sign_in))
        .route(SIGN_OUT, post(sign_in::sign_out))
        .route(JOBS, get(jobs::list))
        .route(jobs::CHANGE, get(change::ask_jobs).post(change::change_jobs))
        .route("/board/jobs/{id}", get(jobs::show))
        .route(INBOX, get(inbox::list))
        .route(inbox::CHANGE, get(change::ask_events).post(change::change_events))
        .route("/board/inbox/{id}", get(inbox::show))
        .route("/board/invites/{id}", get(invites::show))
        .route(QUEUES, get(queues::list).post(queues::change))
        .route(SCHEDULES, get(schedules::list).post(schedules::run))
        .route(AUDIT, get(audit::list))
        .merge(mailbox::pages(&app.config))
        .layer(from_fn_with_state(board.clone(), access::guard))
        .with_state(board);
    pages.merge(files())
}

/// Where a browser on this machine finds the board. In development the link signs in by a key in its fragment, which
/// browsers send to no server and the page removes.
#[must_use]
pub fn link(config: &Config, private: SocketAddr) -> String {
    match &config.development_ops_key {
        Some(key) => format!("http://{private}{SIGN_IN}#key={}", key.expose()),
        None => format!("http://{private}{OVERVIEW}"),
    }
}

/// The files of the pages, which need no session.
fn files() -> Router {
    let file = |path: &str, kind: &'static str, text: &'static str| {
        Router::new().route(path, get(async move || ([(header::CONTENT_TYPE, kind)], text)))
    };
    file("/board/board.css", "text/css; charset=utf-8", include_str!("board.css"))
        .merge(file(
            "/board/board.js",
            "text/javascript; charset=utf-8",
            include_str!("board.js"),
        ))
        .merge(file("/board/icon.svg", "image/svg+xml", include_str!("icon.svg")))
}

/// Why a page can't be shown.
struct Unavailable(StoreError);

impl From<StoreError> for Unavailable {
    fn from(error: StoreError) -> Self {
        Self(error)
    }
}

impl axum::response::IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        tracing::warn!(error = %self.0, "a page of the board could not be shown");
        layout::unavailable()
    }
}
