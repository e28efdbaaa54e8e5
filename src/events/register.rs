//! The endpoints that are configured, made known to the database at the start.

use std::time::Duration;

use futures::FutureExt as _;

use crate::app::App;
use crate::store::{EndpointRow, StoreError};

/// How long to wait after a failure.
const AGAIN: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(8);

/// Gives each configured endpoint its queue. What waits for an endpoint that is no longer configured is cancelled.
pub async fn register(app: &App) -> Result<Vec<EndpointRow>, StoreError> {
    let names: Vec<&str> = app
        .config
        .event_endpoints
        .iter()
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    let register = app.store.transaction(names, |tx, names| {
        async move {
            let cancelled = tx.register_endpoints(names).await?;
            Ok::<_, StoreError>((cancelled, tx.endpoints().await?))
        }
        .boxed()
    });
    let (cancelled, endpoints) = app.store.with_timeout(LIMIT, register).await?;
    for (name, deliveries) in cancelled {
        tracing::warn!(
            endpoint = name,
            deliveries,
            "USHER_EVENTS no longer names this endpoint; what waited for it was cancelled"
        );
    }
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.disabled_at.is_some()) {
        tracing::warn!(
            endpoint = endpoint.name,
            "this endpoint is disabled and gets no events; run: usher events enable {}",
            endpoint.name
        );
    }
    Ok(endpoints)
}

/// [`register`], again until it succeeds.
pub async fn register_until_done(app: &App) -> Vec<EndpointRow> {
    loop {
        match register(app).await {
            Ok(endpoints) => return endpoints,
            Err(error) => tracing::warn!(error = %error, "could not register the endpoints of USHER_EVENTS; retrying"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
