//! What the app and the invitee call.

mod auth;
mod body;
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
use axum::extract::DefaultBodyLimit;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::app::App;
use crate::problem::Problem;
use limits::Limits;

/// Bytes; a full batch of 500 invites with messages fits.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// For so long a browser need not ask again.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

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
    // What the app's pages call from the browser. The fallback stands here so that a preflight comes through the layer.
    let pages = Router::new()
        .route("/v1/invite-links/{token}", get(links::preview))
        .route("/v1/me/invites", get(me::list))
        .route("/v1/me/invites/accept", post(me::accept_by_token))
        .route("/v1/me/invites/{id}/accept", post(me::accept))
        .route("/v1/me/invites/{id}/decline", post(me::decline))
        .route("/v1/me/invites/{id}/dismiss", post(me::dismiss))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(limits.clone())
        .layer(cors(&app.config.authorized_parties));
    Router::new()
        .route("/v1/organizations/{id}", put(places::put_organization))
        .route("/v1/organizations/{id}/members", get(places::organization_members))
        .route("/v1/projects/{id}", put(places::put_project))
        .route("/v1/projects/{id}/members", get(places::project_members))
        .route("/v1/invites", get(follow_up::list).post(invites::create))
        .route("/v1/invites/batch", post(invites::batch))
        .route("/v1/invites/{id}", get(invites::show))
        .route("/v1/invites/{id}/resend", post(follow_up::resend))
        .route("/v1/invites/{id}/revoke", post(follow_up::revoke))
        .route("/v1/users/{clerk_user_id}/invites", get(me::list_of))
        .layer(limits)
        .merge(pages)
        .layer(from_fn_with_state(api.clone(), request::layer))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
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
