//! `POST /webhooks/clerk`: verify, store, answer. The work is done by a job, never in the request.

mod intake;
mod sign;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;

pub use intake::{Intake, Receipt};
pub use sign::sign;
pub use signature::{SignatureError, Signatures};

use crate::app::App;
use crate::clerk::{EventKind, PeekError, peek_type};
use crate::problem::{Code, Problem};
use crate::store::NewEvent;

/// Bytes; a whole user is 2 to 20 KB.
const MAX_BODY: usize = 256 * 1024;
/// Svix gives an attempt 15 seconds in all.
const MAX_WAIT: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Webhooks {
    app: App,
    signatures: Arc<Signatures>,
    intake: Intake,
}

/// The routes that Clerk calls.
///
/// # Errors
/// When a signing secret can't be used.
pub fn router(app: &App) -> Result<Router, svix::webhooks::WebhookError> {
    let webhooks = Webhooks {
        app: app.clone(),
        signatures: Arc::new(Signatures::new(&app.config.signing_secrets)?),
        intake: Intake::start(app.store.clone()),
    };
    Ok(Router::new()
        .route("/webhooks/clerk", post(receive))
        .with_state(webhooks))
}

async fn receive(State(webhooks): State<Webhooks>, headers: HeaderMap, body: Body) -> Response {
    match tokio::time::timeout(MAX_WAIT, webhooks.receive(&headers, body)).await {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => problem.into_response(),
        Err(_) => Problem::new(Code::StoreUnavailable).into_response(),
    }
}

impl Webhooks {
    async fn receive(&self, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
        let body = read(headers, body).await?;
        let svix_id = self.verify(headers, &body)?;
        let event_type = peek_type(&body).map_err(unreadable)?.into_owned();
        if EventKind::from_type(&event_type).is_none() {
            return Ok((StatusCode::OK, axum::Json(json!({"status": "ignored"}))).into_response());
        }
        let payload = String::from_utf8(body.into()).map_err(|_| unreadable(PeekError::NotJson))?;
        let receipt = self
            .intake
            .receive(NewEvent {
                svix_id,
                event_type,
                payload,
            })
            .await
            .map_err(|error| {
                tracing::warn!(error = %error, "an event could not be stored; Svix will repeat it");
                Code::StoreUnavailable
            })?;
        let status = match receipt {
            Receipt::Queued => "queued",
            Receipt::Duplicate => "duplicate",
        };
        Ok((StatusCode::ACCEPTED, axum::Json(json!({"status": status}))).into_response())
    }

    fn verify(&self, headers: &HeaderMap, body: &Bytes) -> Result<String, Problem> {
        self.signatures
            .verify(headers, body, self.app.clock.now())
            .map_err(|error| {
                tracing::warn!(reason = %error, "a webhook was refused");
                Problem::new(Code::BadSignature)
                    .with_detail("Check that CLERK_WEBHOOK_SIGNING_SECRET is this endpoint's secret, and the clocks.")
            })
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(too_large());
    }
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| too_large())
}

fn too_large() -> Problem {
    Problem::new(Code::TooLarge).with_detail("At most 256 KiB.")
}

fn unreadable(error: PeekError) -> Problem {
    match error {
        PeekError::NotJson => Code::NotJson.into(),
        PeekError::NoType => Code::NoType.into(),
    }
}
