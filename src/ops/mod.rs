//! The private listener: is the process there, can it work.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::SecondsFormat;
use serde_json::json;

use crate::problem::Problem;
use crate::store::{Store, Trouble};
use crate::worker::Alive;

#[derive(Clone)]
struct Health {
    store: Store,
    workers: Option<Alive>,
}

/// Routes for the private address. `workers` where this process has some.
pub fn router(store: Store, workers: Option<Alive>) -> Router {
    Router::new()
        .route("/livez", get(async || Json(json!({"status": "ok"}))))
        .route("/readyz", get(ready))
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .with_state(Health { store, workers })
}

/// 200 if this process can do its work, 503 with the failing check otherwise. A mail server that refuses the account is
/// told of, but no reason to take the process out of service.
async fn ready(State(health): State<Health>) -> Response {
    let database = health.store.ping().await.is_ok();
    let workers = health.workers.as_ref().map(Alive::all);
    let is_ready = database && workers.unwrap_or(true);
    let word = |ok: bool| if ok { "ok" } else { "failing" };
    let mut checks = json!({ "database": word(database) });
    if let Some(workers) = workers {
        checks["workers"] = json!(word(workers));
    }
    if let Some(trouble) = mail_trouble(&health.store).await {
        let since = trouble.since.to_rfc3339_opts(SecondsFormat::Secs, true);
        checks["mail"] = json!({ "status": "refused", "since": since, "reason": trouble.reason });
    }
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({ "status": word(is_ready), "checks": checks }))).into_response()
}

async fn mail_trouble(store: &Store) -> Option<Trouble> {
    store.read().await.ok()?.mail_trouble().await.ok()?
}
