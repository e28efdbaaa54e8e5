//! The routes of the private listener: liveness, readiness, metrics and the board.

mod board;
mod catalog;
mod scrape;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use chrono::SecondsFormat;
use serde_json::{Value, json};

use crate::problem::Problem;
use crate::shutdown::Stopping;
use crate::store::{OpenCircuit, PausedQueue, PoolName, Store, StoreError};
use crate::worker::Alive;
pub use board::{link as board_link, router as board};
pub use catalog::CatalogWatch;
pub use scrape::Scrape;

/// Orchestrators probe every few seconds and don't wait long.
const MAX_WAIT: Duration = Duration::from_secs(3);

#[derive(Clone)]
struct Ops {
    store: Store,
    workers: Option<Alive>,
    scrape: Arc<Scrape>,
    catalog: CatalogWatch,
}

/// Routes for the private address. `workers` if this process runs any.
pub fn router(store: Store, workers: Option<Alive>, scrape: Arc<Scrape>, catalog: CatalogWatch) -> Router {
    Router::new()
        .route("/livez", get(async || Json(json!({"status": "ok"}))))
        .route("/readyz", get(ready))
        .route("/metrics", get(scraped))
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .with_state(Ops {
            store: store.with_pool(PoolName::Health),
            workers,
            scrape,
            catalog,
        })
}

/// 200 if this process can work, else 503, with each check and what is wrong with those that fail. An open circuit breaker
/// for mail, paused queues and differences of the catalog are shown, but do not make the process unready.
async fn ready(State(ops): State<Ops>, stopping: Option<Extension<Stopping>>) -> Response {
    if stopping.is_some_and(|Extension(Stopping(token))| token.is_cancelled()) {
        let said =
            json!({ "status": "stopping", "checks": {}, "problems": ["it was asked to end; send it nothing more"] });
        return (StatusCode::SERVICE_UNAVAILABLE, Json(said)).into_response();
    }
    // Side by side, so that they wait no longer together than one of them may.
    let (database, migrated, circuit, paused) = tokio::join!(
        with_timeout(ops.store.takes_writes()),
        with_timeout(ops.store.is_migrated()),
        with_timeout(circuit_opened(&ops.store)),
        with_timeout(paused_queues(&ops.store)),
    );
    let mut checks = vec![("database", database), ("migrations", migrated.and_then(up_to_date))];
    if let Some(workers) = &ops.workers {
        checks.push(("workers", all_alive(workers)));
    }
    let is_ready = checks.iter().all(|(_, check)| check.is_ok());
    let word = |ok: bool| if ok { "ok" } else { "failing" };
    let words: serde_json::Map<String, Value> = checks
        .iter()
        .map(|(name, check)| ((*name).to_owned(), word(check.is_ok()).into()))
        .collect();
    let problems: Vec<String> = checks
        .iter()
        .filter_map(|(name, check)| Some(format!("{name}: {}", check.as_ref().err()?)))
        .collect();
    let mut body = json!({ "status": word(is_ready), "checks": words });
    if !is_ready {
        body["problems"] = json!(problems);
    }
    if let Ok(Some(circuit)) = circuit {
        let since = circuit.since.to_rfc3339_opts(SecondsFormat::Secs, true);
        body["checks"]["mail"] = json!({ "status": "refused", "since": since, "reason": circuit.reason });
    }
    if let Ok(paused) = paused
        && !paused.is_empty()
    {
        body["paused_queues"] = json!(paused);
    }
    let differences = ops.catalog.sentences();
    if !differences.is_empty() {
        body["catalog"] = json!(differences);
    }
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

async fn with_timeout<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(MAX_WAIT, asked).await {
        Ok(answered) => answered.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {} s", MAX_WAIT.as_secs())),
    }
}

fn up_to_date(migrated: bool) -> Result<(), String> {
    if migrated {
        Ok(())
    } else {
        Err("the schema is older than this version; run: usher migrate".to_owned())
    }
}

fn all_alive(workers: &Alive) -> Result<(), String> {
    let missing = workers.missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|queue| queue.as_str()).collect();
    Err(format!("none runs for {}; the log says why", names.join(", ")))
}

async fn scraped(State(ops): State<Ops>) -> Response {
    let page = ops.scrape.page(&ops.store, ops.workers.as_ref()).await;
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        page,
    )
        .into_response()
}

async fn circuit_opened(store: &Store) -> Result<Option<OpenCircuit>, StoreError> {
    store.read().await?.circuit_opened().await
}

async fn paused_queues(store: &Store) -> Result<Vec<PausedQueue>, StoreError> {
    store.read().await?.paused_queues().await
}
