//! Errors as RFC 9457 `application/problem+json`, with a stable `code`. Internal causes are logged and never returned.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::fields::FieldError;
use crate::server::BodyError;
use crate::store::{self, AppRefusal, Conflict, StoreError};
use usher_base::Throttle;

/// Seconds in `Retry-After` while the database or Clerk is unavailable.
const RETRY_AFTER: u32 = 5;
/// Seconds in `Retry-After` after waiting for a lock.
const BUSY_RETRY_AFTER: u32 = 1;
/// Seconds in `Retry-After` until Clerk's webhook has probably arrived.
const UNKNOWN_RETRY_AFTER: u32 = 1;

/// Declares the codes. Each has one status and one title; its doc comment is its documentation.
macro_rules! codes {
    ($(#[doc = $when:literal] $variant:ident = $code:literal, $status:ident, $title:literal;)+) => {
        /// A stable name for one kind of problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code { $(#[doc = $when] #[serde(rename = $code)] $variant),+ }

        impl Code {
            /// Every code, by status.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name that programs rely on.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// Its HTTP status.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            /// What happened, for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }

            /// When it is returned, for the documentation.
            #[must_use]
            pub fn when(self) -> &'static str {
                match self { $(Self::$variant => $when.trim_ascii()),+ }
            }
        }
    };
}

codes! {
    /// The body can't be read as JSON.
    NotJson = "not_json", BAD_REQUEST, "The body is not JSON.";
    /// The event is JSON, but has no `type`.
    NoType = "no_type", BAD_REQUEST, "The event has no `type`.";
    /// The connection closed before the whole body arrived.
    UnreadableBody = "unreadable_body", BAD_REQUEST, "The body could not be read.";
    /// The id in the path can't be one; the path's parameters say what it may be.
    InvalidId = "invalid_id", BAD_REQUEST, "The id in the path is not valid.";
    /// The `Idempotency-Key` is empty, too long or not visible ASCII.
    InvalidIdempotencyKey = "invalid_idempotency_key", BAD_REQUEST, "The Idempotency-Key must have 1 to 255 visible ASCII characters.";
    /// The API key or session token is missing, unknown or expired.
    Unauthorized = "unauthorized", UNAUTHORIZED, "Authentication is required.";
    /// The webhook's signature, id or timestamp is missing, wrong or too old.
    BadSignature = "bad_signature", UNAUTHORIZED, "The webhook signature is not valid.";
    /// The session came as a cookie from an origin that `CLERK_AUTHORIZED_PARTIES` does not list.
    ForeignOrigin = "foreign_origin", FORBIDDEN, "This origin is not allowed to use the session cookie.";
    /// The session is an impersonation: it may read invites, but not answer them.
    Impersonated = "impersonated", FORBIDDEN, "An impersonated session can't answer invites.";
    /// The signed-in person does not own the invited address, or has not verified it. `detail` names it, masked.
    OtherAddress = "other_address", FORBIDDEN, "The invite was sent to another email address.";
    /// The inviter may no longer give this role, or is banned, locked or deleted.
    InviterLostRights = "inviter_lost_rights", FORBIDDEN, "The inviter may no longer give this role. Ask for a new invite.";
    /// `invited_by` may not give this role in this organization or project.
    RoleAboveInviter = "role_above_inviter", FORBIDDEN, "The inviter may not give this role.";
    /// `invited_by` is banned or locked in Clerk and can't invite.
    InviterBlocked = "inviter_blocked", FORBIDDEN, "The inviter is banned or locked.";
    /// It does not exist, or the caller may not see it.
    NotFound = "not_found", NOT_FOUND, "Not found.";
    /// The path exists, but not with this method; `Allow` lists its methods. On every path.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "This path does not support that method.";
    /// The person is not known yet: Clerk's webhook has not arrived, and Clerk could not be asked.
    NotSynced = "not_synced", CONFLICT, "The person is not known yet. Try again in a second.";
    /// With `USHER_TABLES=shared`: the app's table needs a value that usher does not have. `detail` names the column.
    AppMustCreate = "app_must_create", CONFLICT, "The app must create this row itself.";
    /// With `USHER_TABLES=shared`: a check, a unique index or a trigger of the app's tables is against it.
    AppRefused = "app_refused", CONFLICT, "The app's own tables refuse it.";
    /// The person is the only one with the organization's highest role.
    LastOwner = "last_owner", CONFLICT, "The organization would lose the last member with its highest role. Give that role to somebody else first.";
    /// The person is banned, locked or deleted in Clerk, so they can't be a member.
    PersonBlocked = "person_blocked", CONFLICT, "The person is banned, locked or deleted in Clerk.";
    /// The address's owner is already a member with this role or a higher one.
    AlreadyMember = "already_member", CONFLICT, "The address's owner is already a member with this role or a higher one.";
    /// The organization is deleted. Only the app can restore it, in its own tables.
    OrganizationDeleted = "organization_deleted", CONFLICT, "The organization is deleted.";
    /// The project or its organization is deleted. Only the app can restore it, in its own tables.
    ProjectDeleted = "project_deleted", CONFLICT, "The project is deleted.";
    /// The invite was accepted, which is final.
    InviteAccepted = "invite_accepted", CONFLICT, "The invite is already accepted.";
    /// The invite was declined, which is final.
    InviteDeclined = "invite_declined", CONFLICT, "The invite was declined. Ask for a new one.";
    /// The invite was revoked, which is final.
    InviteRevoked = "invite_revoked", CONFLICT, "The invite was revoked. Ask for a new one.";
    /// The invite's role is no longer configured.
    UnknownRole = "unknown_role", CONFLICT, "The invite's role no longer exists. Ask for a new invite.";
    /// The invite's organization or project was deleted.
    TargetDeleted = "target_deleted", CONFLICT, "The invite's organization or project was deleted.";
    /// The invite has expired; sending it again or inviting again renews it.
    InviteExpired = "invite_expired", CONFLICT, "The invite has expired. Ask for a new one.";
    /// The link is valid, but its invite has expired.
    LinkExpired = "link_expired", GONE, "The invite has expired. Ask for a new one.";
    /// The event that `after` names is older than events are kept. Begin again without `after`.
    CursorExpired = "cursor_expired", GONE, "The cursor has expired.";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The body did not arrive in time.";
    /// The body is larger than this path accepts.
    TooLarge = "too_large", PAYLOAD_TOO_LARGE, "The body is too large.";
    /// The body was not sent as `application/json`.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "Send `Content-Type: application/json`.";
    /// Fields or parameters are not valid; `errors` names each of them.
    InvalidRequest = "invalid_request", UNPROCESSABLE_ENTITY, "The request is not valid.";
    /// The same `Idempotency-Key` was used with another request within 24 hours.
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "This Idempotency-Key belongs to another request. Use a new one.";
    /// The key, the person or the address has used up its calls; `Retry-After` says when to retry.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests.";
    /// A mail for this invite went out less than five minutes ago, or ten did within a day.
    ResendTooSoon = "resend_too_soon", TOO_MANY_REQUESTS, "A mail was sent to this address recently.";
    /// The inviter, the organization or, when sending again, the address has reached its daily limit of invite mails.
    DailyMailCap = "daily_mail_cap", TOO_MANY_REQUESTS, "The daily limit of invite mails is reached. Try again after midnight UTC.";
    /// An unexpected error, which is in usher's log; the same request may work later.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error.";
    /// The database is unavailable; nothing was changed.
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "The database is unavailable. Try again.";
    /// Another transaction holds a lock that this request needs; nothing was changed. Other requests are not affected.
    StoreBusy = "store_busy", SERVICE_UNAVAILABLE, "A lock that this request needs is held by another transaction. Try again.";
    /// Clerk's keys can't be fetched, so session tokens can't be verified.
    KeysUnavailable = "keys_unavailable", SERVICE_UNAVAILABLE, "Clerk's keys can't be fetched. Try again.";
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let mut text =
            String::from("A stable name for programs.\n\n| code | status | answered when |\n|---|---|---|\n");
        for code in Self::ALL {
            let (name, status, when) = (code.as_str(), code.status().as_u16(), code.when());
            let _ = writeln!(text, "| `{name}` | {status} | {when} |");
        }
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .description(Some(text))
            .into()
    }
}

impl ToSchema for Code {}

impl Code {
    /// Whether the answer has a `Retry-After`.
    #[must_use]
    pub fn has_retry_after(self) -> bool {
        self == Self::NotSynced
            || matches!(
                self.status(),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            )
    }
}

/// An error as the caller sees it: `application/problem+json` of RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    #[serde(serialize_with = "as_number")]
    #[schema(value_type = u16, minimum = 400, maximum = 599)]
    pub status: StatusCode,
    /// A stable name for programs.
    pub code: Code,
    /// What happened, for people.
    #[schema(value_type = String)]
    pub title: &'static str,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<String>,
    /// What is wrong with which field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
    /// Seconds, for the `Retry-After` header.
    #[serde(skip)]
    pub retry_after: Option<u32>,
    /// Whether the transaction conflicted with another one and may succeed when retried.
    #[serde(skip)]
    is_conflict: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    #[must_use]
    pub fn new(code: Code) -> Self {
        let retry_after = match code {
            Code::NotSynced => Some(UNKNOWN_RETRY_AFTER),
            _ => (code.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
        };
        Self {
            status: code.status(),
            code,
            title: code.title(),
            detail: None,
            errors: Vec::new(),
            retry_after,
            is_conflict: false,
        }
    }

    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Invalid fields.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Self {
            errors,
            ..Self::new(Code::InvalidRequest)
        }
    }

    /// It does not exist, or the caller may not know of it.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(Code::NotFound)
    }

    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(Code::MethodNotAllowed)
    }

    #[must_use]
    pub fn internal() -> Self {
        Self::new(Code::Internal)
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl From<AppRefusal> for Problem {
    fn from(refusal: AppRefusal) -> Self {
        let code = match &refusal {
            AppRefusal::NotSynced => return Code::NotSynced.into(),
            AppRefusal::MustCreate(_) => Code::AppMustCreate,
            AppRefusal::Refused(_) => Code::AppRefused,
        };
        Self::new(code).with_detail(refusal.to_string())
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        Self::new(match error {
            BodyError::TooLarge => Code::TooLarge,
            BodyError::TimedOut => Code::RequestTimeout,
            BodyError::BrokenOff => Code::UnreadableBody,
        })
    }
}

/// Whoever calls while the database is away makes the line.
static AWAY: Throttle = Throttle::new(Duration::from_secs(10));
/// Each is worth a look, so they come more often.
static REFUSED: Throttle = Throttle::new(Duration::from_secs(1));

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_conflict() {
            // The caller sees it only if all retries failed.
            Self {
                is_conflict: true,
                ..Self::new(Code::StoreBusy).retry_after(BUSY_RETRY_AFTER)
            }
        } else if error.is_busy() {
            store::log_busy(&error);
            Self::new(Code::StoreBusy).retry_after(BUSY_RETRY_AFTER)
        } else if error.is_temporary() {
            if let Some(suppressed) = AWAY.admit() {
                tracing::warn!(error = %error, suppressed, "the database is unavailable");
            }
            Self::new(Code::StoreUnavailable)
        } else {
            if let Some(suppressed) = REFUSED.admit() {
                tracing::error!(error = %error, suppressed, "database error");
            }
            Self::internal()
        }
    }
}

impl Conflict for Problem {
    fn is_conflict(&self) -> bool {
        self.is_conflict
    }

    fn is_busy(&self) -> bool {
        self.code == Code::StoreBusy && !self.is_conflict
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
