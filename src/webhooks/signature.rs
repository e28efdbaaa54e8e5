//! Svix signatures over the raw body, with any of the configured secrets.

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use svix::webhooks::{Webhook, WebhookError};

use crate::secret::Secret;

/// The tolerance of an attempt's timestamp in seconds, in both directions; the same as Svix's.
const TOLERANCE: u64 = 300;
/// Bytes; Svix's ids are `msg_` and 27 characters.
const MAX_ID: usize = 128;
/// Bytes; while secrets are rotated, Svix sends a signature with each.
const MAX_SIGNATURES: usize = 4096;
/// Characters of a signature: 32 bytes in base64.
const TAG: usize = 44;

/// Verifies that requests come from Clerk. There are several secrets while one is being rotated.
#[derive(Debug)]
pub struct Signatures(Vec<Webhook>);

/// Why a request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// `svix-id`, `svix-timestamp` or `svix-signature` is missing or unreadable.
    #[error("a signature header is missing or unreadable")]
    Header,
    /// Signed more than five minutes before or after now.
    #[error("the timestamp is more than five minutes away from now")]
    Timestamp,
    /// No signature matches any of the secrets.
    #[error("no signature matches")]
    Mismatch,
}

impl Signatures {
    /// # Errors
    /// When a secret is empty or not base64.
    pub fn new(secrets: &[Secret]) -> Result<Self, WebhookError> {
        secrets
            .iter()
            .map(|secret| Webhook::new(secret.expose()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Verifies one attempt and returns its message id, which is the same for retries and replays.
    pub fn verify(&self, signed: &SignatureHeaders<'_>, body: &[u8]) -> Result<String, SignatureError> {
        let mut outcome = Err(SignatureError::Mismatch);
        for webhook in &self.0 {
            match webhook.verify_ignoring_timestamp(body, signed.headers) {
                Ok(()) => return Ok(signed.id.to_owned()),
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

/// The headers of an attempt whose signature is plausible. Only these are verified, so the body of any other request
/// is never read.
#[derive(Debug, Clone, Copy)]
pub struct SignatureHeaders<'a> {
    id: &'a str,
    headers: &'a HeaderMap,
}

impl<'a> SignatureHeaders<'a> {
    /// Checks everything that does not need the body.
    pub fn read(headers: &'a HeaderMap, now: DateTime<Utc>) -> Result<Self, SignatureError> {
        let id = header(headers, ["svix-id", "webhook-id"], MAX_ID)?;
        let signatures = header(headers, ["svix-signature", "webhook-signature"], MAX_SIGNATURES)?;
        let timestamp = header(headers, ["svix-timestamp", "webhook-timestamp"], MAX_ID)?;
        let timestamp: i64 = timestamp.parse().map_err(|_| SignatureError::Header)?;
        // svix would use the system's clock; here time is an argument.
        if now.timestamp().abs_diff(timestamp) > TOLERANCE {
            return Err(SignatureError::Timestamp);
        }
        let is_one = |signature: &str| signature.strip_prefix("v1,").is_some_and(|tag| tag.len() == TAG);
        if signatures.split(' ').any(is_one) {
            Ok(Self { id, headers })
        } else {
            Err(SignatureError::Mismatch)
        }
    }
}

/// Either set of header names, with the same preference as svix.
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
