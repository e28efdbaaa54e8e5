//! `Idempotency-Key`: a request that is repeated gets the answer that it got, and does nothing twice.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;

use super::Api;
use super::auth::AppClient;
use crate::problem::{Code, Problem};
use crate::store::{Repetition, Tx};

/// Characters.
const MAX_KEY: usize = 255;

/// The header, where the caller sent one.
#[derive(IntoParams)]
#[into_params(names("Idempotency-Key"), parameter_in = Header)]
pub(super) struct IdempotencyKey(
    /// Makes repeating safe: the same request with the same key within 24 hours gets the first answer again.
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
            Ok(key) if !key.is_empty() && key.len() <= MAX_KEY => Ok(Self(Some(key.to_owned()))),
            _ => Err(Code::InvalidIdempotencyKey.into()),
        }
    }
}

impl IdempotencyKey {
    /// The answer that the same request got before, if there is one.
    pub(super) async fn repeated(
        &self,
        tx: &mut Tx,
        client: &AppClient,
        path: &str,
        body: &[u8],
    ) -> Result<Option<Kept>, Problem> {
        let Some(key) = &self.0 else { return Ok(None) };
        let hash = Sha256::new()
            .chain_update(path)
            .chain_update([0])
            .chain_update(body)
            .finalize();
        match tx.claim_idempotency_key(client.name(), key, &hash).await? {
            Repetition::First => Ok(None),
            Repetition::Answered { status, answer } => Ok(Some(Kept { status, answer })),
            Repetition::OtherRequest => Err(Code::IdempotencyKeyReused.into()),
        }
    }

    /// Keeps the answer, in the transaction that makes it true.
    pub(super) async fn keep(
        &self,
        tx: &mut Tx,
        client: &AppClient,
        status: StatusCode,
        answer: &str,
    ) -> Result<(), Problem> {
        if let Some(key) = &self.0 {
            tx.keep_answer(client.name(), key, status.as_u16().into(), answer)
                .await?;
        }
        Ok(())
    }
}

/// An answer as it is kept: its status, and its JSON as text.
pub(super) struct Kept {
    pub status: i32,
    pub answer: String,
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
