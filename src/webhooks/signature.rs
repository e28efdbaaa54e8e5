//! Svix signatures over the raw body, by any of the configured secrets.

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use svix::webhooks::{Webhook, WebhookError};

use crate::secret::Secret;

/// Seconds that an attempt's timestamp may be off, either way. Svix's own tolerance.
const TOLERANCE: u64 = 300;
/// Bytes; Svix's ids are `msg_` and 27 characters.
const MAX_ID: usize = 128;
/// Bytes; while secrets are rotated, svix sends a signature of each.
const MAX_SIGNATURES: usize = 4096;
/// Characters of a signature: 32 bytes in base64.
const TAG: usize = 44;

/// Verifies that a request is Clerk's. Several secrets stand side by side while one is being rotated.
#[derive(Debug)]
pub struct Signatures(Vec<Webhook>);

/// Why a request is not taken for Clerk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// `svix-id`, `svix-timestamp` or `svix-signature` is absent or unreadable.
    #[error("a signature header is missing or unreadable")]
    Header,
    /// Signed more than five minutes away from now.
    #[error("the timestamp is more than five minutes away from now")]
    Timestamp,
    /// None of the signatures was made with any of the secrets.
    #[error("no signature matches")]
    Mismatch,
}

impl Signatures {
    /// One verifier per secret.
    ///
    /// # Errors
    /// When a secret is empty or not base64.
    pub fn new(secrets: &[Secret]) -> Result<Self, WebhookError> {
        secrets
            .iter()
            .map(|secret| Webhook::new(secret.expose()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Looks at all that can be judged without the body, so that nobody's body is read who can't have signed it.
    pub fn look_at(headers: &HeaderMap, now: DateTime<Utc>) -> Result<(), SignatureError> {
        header(headers, ["svix-id", "webhook-id"], MAX_ID)?;
        let signatures = header(headers, ["svix-signature", "webhook-signature"], MAX_SIGNATURES)?;
        let timestamp = header(headers, ["svix-timestamp", "webhook-timestamp"], MAX_ID)?;
        let timestamp: i64 = timestamp.parse().map_err(|_| SignatureError::Header)?;
        // svix would ask the system's clock; time is an argument here.
        if now.timestamp().abs_diff(timestamp) > TOLERANCE {
            return Err(SignatureError::Timestamp);
        }
        let is_one = |signature: &str| signature.strip_prefix("v1,").is_some_and(|tag| tag.len() == TAG);
        if signatures.split(' ').any(is_one) {
            Ok(())
        } else {
            Err(SignatureError::Mismatch)
        }
    }

    /// Verifies one attempt and returns its message id, the same over retries and replays.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: DateTime<Utc>) -> Result<String, SignatureError> {
        Self::look_at(headers, now)?;
        let id = header(headers, ["svix-id", "webhook-id"], MAX_ID)?;
        let mut outcome = Err(SignatureError::Mismatch);
        for webhook in &self.0 {
            match webhook.verify_ignoring_timestamp(body, headers) {
                Ok(()) => return Ok(id.to_owned()),
                Err(
                    WebhookError::MissingHeader(_) | WebhookError::InvalidHeader(_) | WebhookError::InvalidTimestamp,
                ) => {
                    outcome = Err(SignatureError::Header);
                }
                Err(_) => {}
            }
        }
        outcome
    }
}

/// Either family of header names, as svix prefers them.
fn header<'a>(headers: &'a HeaderMap, names: [&str; 2], most: usize) -> Result<&'a str, SignatureError> {
    names
        .iter()
        .find_map(|name| headers.get(*name))
        .and_then(|value| value.to_str().ok())
        .filter(|value| !value.is_empty() && value.len() <= most)
        .ok_or(SignatureError::Header)
}

#[cfg(test)]
mod tests;
