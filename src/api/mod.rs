//! What the app and the invitee call.

mod auth;
mod body;
mod invites;
mod limits;
mod me;
mod places;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};

use crate::app::App;
use limits::Limits;

/// Bytes; a full batch of 500 invites with messages fits.
const MAX_BODY: usize = 4 * 1024 * 1024;

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
    Router::new()
        .route("/v1/organizations/{id}", put(places::put_organization))
        .route("/v1/organizations/{id}/members", get(places::organization_members))
        .route("/v1/projects/{id}", put(places::put_project))
        .route("/v1/projects/{id}/members", get(places::project_members))
        .route("/v1/invites", post(invites::create))
        .route("/v1/invites/{id}", get(invites::show))
        .route("/v1/me/invites", get(me::list))
        .route("/v1/me/invites/{id}/accept", post(me::accept))
        .route("/v1/me/invites/{id}/decline", post(me::decline))
        .route("/v1/me/invites/{id}/dismiss", post(me::dismiss))
        .layer(from_fn_with_state(api.clone(), limits::layer))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}
