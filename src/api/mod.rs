//! The HTTP API: what the app and the invitee call.

mod auth;
mod banner;
mod body;
mod events;
mod example;
mod idempotency;
mod invites;
mod limits;
mod links;
mod me;
mod members;
mod memberships;
mod organizations;
mod request;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::problem::{Code, Problem};
use crate::server::{ClientTime, within};
use limits::Limits;

/// How long a browser may cache the answer to a preflight.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// Longer origins are refused without being named.
const MAX_SHOWN_ORIGIN: usize = 200;
/// More are not named: strangers can send any.
const MAX_NAMED_ORIGINS: usize = 100;

/// How long a request may take, with a request to Clerk. Its body has its own limits; see `server`.
const TIME_LIMIT: Duration = Duration::from_secs(12);

#[derive(Clone)]
struct Api {
    app: App,
    limits: Arc<Limits>,
}

/// The routes under `/v1`.
pub fn router(app: &App) -> Router {
    let api = Api {
        app: app.clone(),
        limits: Arc::new(Limits::new(app)),
    };
    let limits = from_fn_with_state(api.clone(), limits::layer);
    // The fallback is here so that the CORS layer also sees preflights.
    let pages = Router::from(for_pages())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(limits.clone())
        .layer(cors(&app.config.page_origins));
    Router::from(for_the_app())
        .layer(limits)
        .merge(pages)
        .layer(from_fn(with_timeout))
        .layer(from_fn_with_state(api.clone(), request::layer))
        .with_state(api)
}

/// The description of these routes. `routes!` ties each route to its description.
#[must_use]
pub fn openapi() -> OpenApi {
    for_the_app().into_openapi().merge_from(for_pages().into_openapi())
}

/// Called by the app, with its API key.
fn for_the_app() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(
            organizations::put_organization,
            organizations::delete_organization
        ))
        .routes(routes!(organizations::put_project, organizations::delete_project))
        .merge(members::for_the_app())
        .merge(memberships::for_the_app())
        .merge(invites::routes())
        .routes(routes!(banner::list_of))
        .routes(routes!(events::list))
}

/// Called by the app's pages, from the browser.
fn for_pages() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(links::preview))
        .routes(routes!(links::preview_by_body))
        .routes(routes!(banner::list))
        .routes(routes!(me::accept_by_token))
        .routes(routes!(me::accept))
        .routes(routes!(me::decline))
        .routes(routes!(me::dismiss))
        .merge(memberships::for_pages())
}

pub use example::event_of as event_example;

/// The groups of the documentation.
mod tag {
    pub(super) const INVITES: &str = "Invites";
    pub(super) const ORGANIZATIONS: &str = "Organizations and projects";
    pub(super) const MEMBERS: &str = "Members";
    pub(super) const ME: &str = "The signed-in person";
    pub(super) const LINKS: &str = "Invite links";
    pub(super) const EVENTS: &str = "Events";
}

/// Answers 503 after the time limit, so that a database that hangs does not hang the client.
async fn with_timeout(request: Request, next: Next) -> Response {
    let client = request.extensions().get::<ClientTime>().cloned();
    let waits = if request.uri().path() == events::PATH {
        events::MAX_WAIT
    } else {
        Duration::ZERO
    };
    match within(TIME_LIMIT + waits, client, next.run(request)).await {
        Some(response) => response,
        None => Problem::new(Code::StoreUnavailable).into_response(),
    }
}

/// The refused origins that the log has named.
#[derive(Default)]
struct Refused(Mutex<HashSet<HeaderValue>>);

impl Refused {
    /// Names each refused origin once. The browser tells its own console only, and there the reader is not who could change
    /// the setting.
    fn warn(&self, origin: &HeaderValue, ours: &[String]) {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new =
            named.len() < MAX_NAMED_ORIGINS && origin.len() <= MAX_SHOWN_ORIGIN && named.insert(origin.clone());
        if !is_new {
            return;
        }
        let origin = String::from_utf8_lossy(origin.as_bytes());
        tracing::warn!(
            "a page of {origin:?} was refused by CORS; CLERK_AUTHORIZED_PARTIES names {}",
            if ours.is_empty() {
                "none".to_owned()
            } else {
                ours.join(", ")
            }
        );
    }
}

/// Allows only the app's own pages to call from the browser with the person's session.
fn cors(origins: &[String]) -> CorsLayer {
    let origins = origins.to_vec();
    let refused = Refused::default();
    let is_ours = move |origin: &HeaderValue, _: &Parts| {
        let is_ours = origins.iter().any(|ours| ours.as_bytes() == origin.as_bytes());
        if !is_ours {
            refused.warn(origin, &origins);
        }
        is_ours
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_ours))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER, limits::POLICY, limits::STANDING])
        .max_age(PREFLIGHT_AGE)
}
