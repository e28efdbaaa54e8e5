//! `Idempotency-Key`: a repeated request gets its first answer again, and nothing is done twice.
//!
//! What is kept is limited in size. An answer of up to [`MAX_ANSWER`] is kept and repeated as it was. Of a longer one, such
//! as a batch with hundreds of messages, only the outcome of each item is kept; its invites are shown as they are now.
//!
//! In both cases a key sees only what it may see when it repeats the request: it may have been limited since, or a project
//! moved. What it may not see is answered as not found.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;
use uuid::Uuid;

use super::Api;
use super::auth::AppClient;
use crate::problem::{Code, Problem};
use crate::store::{IdempotencyState, KeptAnswer, Tx};

/// In characters.
const MAX_KEY: usize = 255;
/// Bytes of an answer that is kept as it was.
const MAX_ANSWER: usize = 256 * 1024;

/// The header, where the caller sent one.
#[derive(IntoParams)]
#[into_params(names("Idempotency-Key"), parameter_in = Header)]
pub(super) struct IdempotencyKey(
    /// Makes retries safe: within 24 hours the same request with the same key changes nothing. It gets the first answer again,
    /// if the API key may still see all of it. If the answer was longer than 256 KiB, it gets the same statuses and the
    /// invites as they are now.
    #[param(min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    Option<String>,
);

impl FromRequestParts<Api> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        match value.to_str().map(str::trim) {
            Ok(key) if (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Self(Some(key.to_owned())))
            }
            _ => Err(Code::InvalidIdempotencyKey.into()),
        }
    }
}

impl IdempotencyKey {
    /// The answer to an earlier request with the same key, if there is one.
    pub(super) async fn repeated(
        &self,
        tx: &mut Tx,
        client: &AppClient,
        path: &str,
        body: &[u8],
    ) -> Result<Option<Repeated>, Problem> {
        let Some(key) = &self.0 else { return Ok(None) };
        let hash = Sha256::new()
            .chain_update(path)
            .chain_update([0])
            .chain_update(body)
            .finalize();
        match tx.claim_idempotency_key(client.name(), key, &hash).await? {
            IdempotencyState::First => Ok(None),
            IdempotencyState::Answered(kept) => Ok(Some(Repeated::read(kept))),
            IdempotencyState::OtherRequest => Err(Code::IdempotencyKeyReused.into()),
        }
    }

    /// Stores the answer, in the transaction that carries out the request.
    pub(super) async fn keep(
        &self,
        tx: &mut Tx,
        client: &AppClient,
        answer: &Kept,
        outcomes: &[Outcome],
    ) -> Result<(), Problem> {
        let Some(key) = &self.0 else { return Ok(()) };
        let outcomes = serde_json::to_string(outcomes).map_err(|_| Problem::internal())?;
        let kept = KeptAnswer {
            status: answer.status,
            answer: (answer.answer.len() <= MAX_ANSWER).then(|| answer.answer.clone()),
            outcomes: Some(outcomes),
        };
        Ok(tx.keep_answer(client.name(), key, &kept).await?)
    }
}

/// The outcome of one item of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub invite: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<Code>,
}

/// The answer to an earlier request with the same key.
pub(super) struct Repeated {
    status: i32,
    answer: Option<String>,
    /// Absent for answers of earlier versions.
    outcomes: Option<Vec<Outcome>>,
}

impl Repeated {
    fn read(kept: KeptAnswer) -> Self {
        Self {
            status: kept.status,
            answer: kept.answer,
            outcomes: kept.outcomes.and_then(|text| serde_json::from_str(&text).ok()),
        }
    }

    pub(super) fn outcomes(&self) -> &[Outcome] {
        self.outcomes.as_deref().unwrap_or_default()
    }

    /// The first answer, if it was kept and `may_see` allows all invites in it.
    pub(super) fn as_it_was(&self, client: &AppClient, may_see: impl Fn(Uuid) -> bool) -> Option<Kept> {
        let sees_all = match &self.outcomes {
            Some(outcomes) => outcomes.iter().filter_map(|outcome| outcome.invite).all(may_see),
            None => client.organizations().is_none(),
        };
        Some(Kept {
            status: self.status,
            answer: self.answer.clone().filter(|_| sees_all)?,
            invite: self.outcomes().first().and_then(|outcome| outcome.invite),
        })
    }
}

/// An answer: its status, and its JSON as text.
pub(super) struct Kept {
    pub status: i32,
    pub answer: String,
    /// The first invite in it.
    pub invite: Option<Uuid>,
}

impl Kept {
    pub(super) fn json(status: u16, body: &impl Serialize, invite: Option<Uuid>) -> Result<Self, Problem> {
        Ok(Self {
            status: status.into(),
            invite,
            answer: serde_json::to_string(body).map_err(|_| Problem::internal())?,
        })
    }
}

impl IntoResponse for Kept {
    fn into_response(self) -> Response {
        let status = u16::try_from(self.status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok());
        let json = HeaderValue::from_static("application/json");
        let status = status.unwrap_or(StatusCode::OK);
        (status, [(header::CONTENT_TYPE, json)], self.answer).into_response()
    }
}
