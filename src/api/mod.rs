//! What the app and the invitee call.

mod auth;
mod body;
mod follow_up;
mod idempotency;
mod invites;
mod links;
mod me;
mod places;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};

use crate::app::App;
use auth::ApiKeys;

/// Bytes; a full batch of 500 invites with messages fits.
const MAX_BODY: usize = 4 * 1024 * 1024;

#[derive(Clone)]
struct Api {
    app: App,
    keys: Arc<ApiKeys>,
}

/// The routes under `/v1`.
pub fn router(app: &App) -> Router {
    let api = Api {
        app: app.clone(),
        keys: Arc::new(ApiKeys::new(&app.config.api_keys)),
    };
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
        .route("/v1/invite-links/{token}", get(links::preview))
        .route("/v1/me/invites", get(me::list))
        .route("/v1/me/invites/accept", post(me::accept_by_token))
        .route("/v1/me/invites/{id}/accept", post(me::accept))
        .route("/v1/me/invites/{id}/decline", post(me::decline))
        .route("/v1/me/invites/{id}/dismiss", post(me::dismiss))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}
