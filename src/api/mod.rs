//! What the app and the invitee call.

mod auth;
mod body;
mod example;
mod follow_up;
mod idempotency;
mod invites;
mod limits;
mod links;
mod me;
mod places;
mod request;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
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
use limits::Limits;

/// Bytes; a full batch of 500 invites with messages fits.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// Bytes; what a page sends is a token.
const MAX_PAGE_BODY: usize = 64 * 1024;
/// For so long a browser need not ask again.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// How long a request may take, its body and a question to Clerk included.
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
    // The fallback stands here so that a preflight comes through the layer.
    let pages = Router::from(for_pages())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(DefaultBodyLimit::max(MAX_PAGE_BODY))
        .layer(limits.clone())
        .layer(cors(&app.config.authorized_parties));
    Router::from(for_the_app())
        .layer(limits)
        .merge(pages)
        .layer(from_fn(in_time))
        .layer(from_fn_with_state(api.clone(), request::layer))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// The description of these routes: a route can't be had without its own.
#[must_use]
pub fn openapi() -> OpenApi {
    for_the_app().into_openapi().merge_from(for_pages().into_openapi())
}

/// What the app calls, with its key.
fn for_the_app() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(places::put_organization))
        .routes(routes!(places::organization_members))
        .routes(routes!(places::put_project))
        .routes(routes!(places::project_members))
        .routes(routes!(follow_up::list, invites::create))
        .routes(routes!(invites::batch))
        .routes(routes!(invites::show))
        .routes(routes!(follow_up::resend))
        .routes(routes!(follow_up::revoke))
        .routes(routes!(me::list_of))
}

/// What the app's pages call from the browser.
fn for_pages() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(links::preview))
        .routes(routes!(me::list))
        .routes(routes!(me::accept_by_token))
        .routes(routes!(me::accept))
        .routes(routes!(me::decline))
        .routes(routes!(me::dismiss))
}

/// The groups of the documentation.
mod tag {
    pub(super) const INVITES: &str = "Invites";
    pub(super) const PLACES: &str = "Organizations and projects";
    pub(super) const ME: &str = "The signed-in person";
    pub(super) const LINKS: &str = "Invite links";
}

/// Nobody waits for ever for a database that does not answer.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(TIME_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::StoreUnavailable).into_response(),
    }
}

/// Lets the app's pages, and no others, call from the browser with the person's session.
fn cors(origins: &[String]) -> CorsLayer {
    let origins = origins.to_vec();
    let is_ours =
        move |origin: &HeaderValue, _: &Parts| origins.iter().any(|ours| ours.as_bytes() == origin.as_bytes());
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_ours))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER, limits::POLICY, limits::STANDING])
        .max_age(PREFLIGHT_AGE)
}
