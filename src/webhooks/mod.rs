//! `POST /webhooks/clerk`: verify, store, answer. The work is done by a job, never in the request.

mod intake;
mod sign;
mod signature;

use std::sync::Arc;
use std::time::{Duration, Instant};

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
use crate::metrics::{self, OTHER_TYPE, UNKNOWN_TYPE, WebhookOutcome};
use crate::problem::Problem;
use crate::store::NewEvent;
use crate::telemetry;

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
    let started = Instant::now();
    let mut event_type = UNKNOWN_TYPE;
    let received = tokio::time::timeout(MAX_WAIT, webhooks.receive(&headers, body, &mut event_type)).await;
    let result = received.unwrap_or_else(|_| Err((WebhookOutcome::StoreAway, Problem::store_away())));
    let (Ok(outcome) | Err((outcome, _))) = &result;
    metrics::webhook(event_type, *outcome, started.elapsed());
    match result {
        Ok(outcome) => answer(outcome),
        Err((_, problem)) => problem.into_response(),
    }
}

fn answer(outcome: WebhookOutcome) -> Response {
    let status = match outcome {
        WebhookOutcome::Ignored => StatusCode::OK,
        _ => StatusCode::ACCEPTED,
    };
    (status, axum::Json(json!({"status": outcome.as_str()}))).into_response()
}

type Refused = (WebhookOutcome, Problem);

impl Webhooks {
    /// Notes the event's type as soon as it can be believed.
    async fn receive(
        &self,
        headers: &HeaderMap,
        body: Body,
        known_type: &mut &'static str,
    ) -> Result<WebhookOutcome, Refused> {
        let body = read(headers, body).await?;
        let svix_id = self.verify(headers, &body)?;
        let event_type = peek_type(&body).map_err(unreadable)?.into_owned();
        *known_type = EventKind::from_type(&event_type).map_or(OTHER_TYPE, EventKind::as_str);
        if *known_type == OTHER_TYPE {
            return Ok(WebhookOutcome::Ignored);
        }
        let payload = String::from_utf8(body.into()).map_err(|_| unreadable(PeekError::NotJson))?;
        let span = tracing::info_span!("webhook", svix.id = svix_id, event.type = event_type);
        let received = self.intake.receive(NewEvent {
            svix_id: svix_id.clone(),
            event_type,
            payload,
        });
        let receipt = telemetry::caused_by(svix_id, span, received).await.map_err(|error| {
            tracing::warn!(error = %error, "an event could not be stored; Svix will repeat it");
            (WebhookOutcome::StoreAway, Problem::store_away())
        })?;
        Ok(match receipt {
            Receipt::Queued => WebhookOutcome::Queued,
            Receipt::Duplicate => WebhookOutcome::Duplicate,
        })
    }

    fn verify(&self, headers: &HeaderMap, body: &Bytes) -> Result<String, Refused> {
        self.signatures
            .verify(headers, body, self.app.clock.now())
            .map_err(|error| {
                tracing::warn!(reason = %error, "a webhook was refused");
                let problem = Problem::new(
                    StatusCode::UNAUTHORIZED,
                    "bad_signature",
                    "This is not signed by Clerk.",
                )
                .with_detail("Check that CLERK_WEBHOOK_SIGNING_SECRET is this endpoint's secret, and the clocks.");
                (WebhookOutcome::BadSignature, problem)
            })
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Refused> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(too_large());
    }
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| too_large())
}

fn too_large() -> Refused {
    let problem = Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        "The body has more than 256 KiB.",
    );
    (WebhookOutcome::TooLarge, problem)
}

fn unreadable(error: PeekError) -> Refused {
    let problem = match error {
        PeekError::NotJson => Problem::new(StatusCode::BAD_REQUEST, "not_json", "The body is not JSON."),
        PeekError::NoType => Problem::new(StatusCode::BAD_REQUEST, "no_type", "The event has no `type`."),
    };
    (WebhookOutcome::Unreadable, problem)
}
