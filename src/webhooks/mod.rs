//! `POST /webhooks/clerk`: verify, store, answer. A job does the work, never the request.

mod intake;
mod signature;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use intake::{Intake, Receipt};
pub use signature::{SignatureError, SignatureHeaders, Signatures};

use crate::app::App;
use crate::clock::Clock;
use crate::metrics::{self, OTHER_TYPE, UNKNOWN_TYPE, WebhookOutcome};
use crate::names::named;
use crate::problem::{Code, Problem};
use crate::server::{BodyError, read_body};
use crate::store::NewEvent;
use crate::telemetry;
use usher_base::Throttle;
use usher_clerk::{EventKind, PeekError, peek_type};

/// Bytes; a whole user is 2 to 20 KB.
const MAX_BODY: usize = 256 * 1024;
/// For the body, and then for the store: Svix gives an attempt 15 seconds in all.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// What a request needs, shared behind one `Arc`: axum clones the state several times for each request.
struct Webhooks {
    clock: Clock,
    signatures: Signatures,
    intake: Intake,
}

/// The routes that Clerk calls.
///
/// # Errors
/// When a signing secret can't be used.
pub fn router(app: &App) -> Result<Router, svix::webhooks::WebhookError> {
    let webhooks = Webhooks {
        clock: app.clock.clone(),
        signatures: Signatures::new(&app.config.signing_secrets)?,
        intake: Intake::start(app.store.clone()),
    };
    Ok(routes().with_state(Arc::new(webhooks)).into())
}

/// The OpenAPI description of these routes.
#[must_use]
pub fn openapi() -> OpenApi {
    routes().into_openapi()
}

fn routes() -> OpenApiRouter<Arc<Webhooks>> {
    OpenApiRouter::new().routes(routes!(receive))
}

/// An event as Clerk sends it. The request reads only `type`; a job reads what it needs of `data`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the schema of what `peek_type` and the job read")]
struct ClerkEvent {
    /// Such as `user.created`.
    #[schema(min_length = 1)]
    r#type: String,
    /// Always `event`.
    object: Option<String>,
    /// The event's data; its form depends on the type.
    data: Option<Value>,
}

/// The result of receiving an event.
#[derive(Serialize, ToSchema)]
struct EventAnswer {
    /// The result in one word.
    status: EventStatus,
}

named! {
    /// The result of receiving an event, in one word.
    EventStatus("event status") {
        /// Stored and queued for processing.
        Queued = "queued",
        /// Its id was known; nothing was done.
        Duplicate = "duplicate",
        /// usher does not handle its type; nothing was stored.
        Ignored = "ignored",
    }
}

/// Receive an event from Clerk
///
/// Signed by Svix over the raw body; the headers may also be called `webhook-…`. The answer comes after the event is
/// stored durably; a job processes it later. A repeated id is answered as well, and does nothing.
#[utoipa::path(
    post, path = "/webhooks/clerk", tag = "Webhooks", operation_id = "receiveClerkEvent",
    params(
        ("svix-id" = String, Header, description = "The message's id: the same at every retry", example = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"),
        ("svix-timestamp" = String, Header, description = "The attempt's time in Unix seconds, within five minutes of now", example = "1764000000"),
    ),
    request_body(content = ClerkEvent, description = "At most 256 KiB", example = example),
    responses(
        (status = 202, description = "Stored and queued by this request or an earlier one", body = EventAnswer, example = json!({"status": "queued"})),
        (status = 200, description = "The event's type is not one that usher handles", body = EventAnswer, example = json!({"status": "ignored"})),
    ),
    security(("svix_signature" = [])),
    extensions(("x-problems" = json!([Code::BadSignature, Code::NotJson, Code::NoType, Code::TooLarge, Code::RequestTimeout, Code::UnreadableBody])))
)]
async fn receive(State(webhooks): State<Arc<Webhooks>>, headers: HeaderMap, body: Body) -> Response {
    let mut event_type = UNKNOWN_TYPE;
    let mut work = Stopwatch::start();
    let result = webhooks.receive(&headers, body, &mut work, &mut event_type).await;
    let (Ok(outcome) | Err((outcome, _))) = &result;
    metrics::webhook(event_type, *outcome, work.elapsed());
    match result {
        Ok(outcome) => answer(outcome),
        Err((_, problem)) => problem.into_response(),
    }
}

/// Measures the time that usher needs, without the client's.
struct Stopwatch {
    started: Instant,
    waited: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            started: Instant::now(),
            waited: Duration::ZERO,
        }
    }

    /// Excludes the time of `wait`.
    async fn leave_out<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let outcome = wait.await;
        self.waited += started.elapsed();
        outcome
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.waited)
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

/// Events of Clerk's own organizations, which usher does not use: counted by name, so that it can be seen that they are
/// sent in vain. Clerk's list: <https://clerk.com/docs/webhooks/overview#supported-webhook-events>
const OF_CLERK_ORGANIZATIONS: [&str; 15] = [
    "organization.created",
    "organization.updated",
    "organization.deleted",
    "organizationDomain.created",
    "organizationDomain.updated",
    "organizationDomain.deleted",
    "organizationInvitation.accepted",
    "organizationInvitation.created",
    "organizationInvitation.revoked",
    "organizationMembership.created",
    "organizationMembership.updated",
    "organizationMembership.deleted",
    "role.created",
    "role.updated",
    "role.deleted",
];

/// The label for an event that usher does not use: one of a fixed set, whatever is sent.
fn ignored_type(event_type: &str) -> &'static str {
    let known = OF_CLERK_ORGANIZATIONS.iter().find(|known| **known == event_type);
    known.copied().unwrap_or(OTHER_TYPE)
}

impl Webhooks {
    /// Sets the event's type as soon as its signature is verified.
    async fn receive(
        &self,
        headers: &HeaderMap,
        body: Body,
        work: &mut Stopwatch,
        known_type: &mut &'static str,
    ) -> Result<WebhookOutcome, Refused> {
        let signed = SignatureHeaders::read(headers, self.clock.now()).map_err(bad_signature)?;
        let body = work.leave_out(read(headers, body)).await?;
        let svix_id = self.signatures.verify(&signed, &body).map_err(bad_signature)?;
        let event_type = peek_type(&body).map_err(unreadable)?.into_owned();
        let Some(kind) = EventKind::from_type(&event_type) else {
            *known_type = ignored_type(&event_type);
            return Ok(WebhookOutcome::Ignored);
        };
        *known_type = kind.as_str();
        let payload = String::from_utf8(body).map_err(|_| unreadable(PeekError::NotJson))?;
        let event = NewEvent {
            svix_id,
            event_type,
            payload,
        };
        let stored = tokio::time::timeout(MAX_WAIT, self.store(event)).await;
        stored.unwrap_or_else(|_| Err(store_away()))
    }

    async fn store(&self, event: NewEvent) -> Result<WebhookOutcome, Refused> {
        let svix_id = event.svix_id.clone();
        let span = tracing::info_span!("webhook", svix.id = svix_id, event.type = event.event_type);
        let received = self.intake.receive(event);
        let receipt = telemetry::with_correlation_id(svix_id, span, received)
            .await
            .map_err(|error| {
                tracing::warn!(error = %error, "could not store a webhook event; Svix will retry it");
                store_away()
            })?;
        Ok(match receipt {
            Receipt::Queued => WebhookOutcome::Queued,
            Receipt::Duplicate => WebhookOutcome::Duplicate,
        })
    }
}

fn store_away() -> Refused {
    (WebhookOutcome::StoreAway, Code::StoreUnavailable.into())
}

fn bad_signature(error: SignatureError) -> Refused {
    // Any client can cause these lines, so they are throttled; each reason separately, so that none hides another.
    static REFUSED: [Throttle; 3] = [const { Throttle::per_minute() }; 3];
    let throttle = match error {
        SignatureError::Header => &REFUSED[0],
        SignatureError::Timestamp => &REFUSED[1],
        SignatureError::Mismatch => &REFUSED[2],
    };
    if let Some(suppressed) = throttle.admit() {
        tracing::warn!(reason = %error, suppressed, "rejected a webhook");
    }
    let problem = Problem::new(Code::BadSignature)
        .with_detail("Check that CLERK_WEBHOOK_SIGNING_SECRET is this endpoint's secret, and the clocks.");
    (WebhookOutcome::BadSignature, problem)
}

/// An example event for the documentation.
fn example() -> Value {
    json!({
        "type": "user.created",
        "object": "event",
        "data": {
            "id": "user_2ada",
            "object": "user",
            "first_name": "Ada",
            "last_name": "Lovelace",
            "primary_email_address_id": "idn_1",
            "email_addresses": [{
                "id": "idn_1",
                "object": "email_address",
                "email_address": "ada@example.com",
                "verification": { "status": "verified", "strategy": "email_code" },
            }],
            "created_at": 1_764_000_000_000_u64,
            "updated_at": 1_764_000_000_000_u64,
        },
    })
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Refused> {
    let read = tokio::time::timeout(MAX_WAIT, read_body(headers, body, MAX_BODY)).await;
    read.unwrap_or(Err(BodyError::TimedOut)).map_err(|error| match error {
        BodyError::TooLarge => {
            let problem = Problem::new(Code::TooLarge).with_detail("At most 256 KiB.");
            (WebhookOutcome::TooLarge, problem)
        }
        BodyError::TimedOut => (WebhookOutcome::TimedOut, error.into()),
        BodyError::BrokenOff => (WebhookOutcome::Unreadable, error.into()),
    })
}

fn unreadable(error: PeekError) -> Refused {
    let code = match error {
        PeekError::NotJson => Code::NotJson,
        PeekError::NoType => Code::NoType,
    };
    (WebhookOutcome::Unreadable, code.into())
}
