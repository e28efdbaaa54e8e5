//! Clerk, played: events in its shapes, signed as Svix does, and session tokens with its claims.
//!
//! - [`FakeUser`], [`event`], [`session`], [`deleted_user`]: what an event says.
//! - [`Webhook`]: an event as Svix delivers it.
//! - [`SignIn`]: the claims of a session token. The key that signs them is a [`usher_clerk::DevSigner`].

mod events;

pub use events::{FakeUser, deleted_user, event, session};
pub use svix::webhooks::WebhookError;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use usher_clerk::{DevSigner, SigningError};

/// The `svix-signature` header of a message.
///
/// # Errors
/// When the secret is empty or not base64.
pub fn sign(secret: &str, svix_id: &str, timestamp: i64, body: &[u8]) -> Result<String, WebhookError> {
    svix::webhooks::Webhook::new(secret)?.sign(svix_id, timestamp, body)
}

/// An event, signed: what Svix sends.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The message id: the same each time the message is delivered.
    pub svix_id: String,
    /// Seconds since 1970, as a header.
    pub timestamp: String,
    /// The `svix-signature` header.
    pub signature: String,
    /// The event as JSON.
    pub body: Vec<u8>,
}

impl Webhook {
    /// Signs a body. `timestamp` is in seconds since 1970; usher takes it for five minutes.
    ///
    /// # Errors
    /// When the secret is empty or not base64.
    pub fn sign(
        secret: &str,
        svix_id: impl Into<String>,
        timestamp: i64,
        body: impl Into<Vec<u8>>,
    ) -> Result<Self, WebhookError> {
        let (svix_id, body) = (svix_id.into(), body.into());
        Ok(Self {
            signature: sign(secret, &svix_id, timestamp, &body)?,
            timestamp: timestamp.to_string(),
            svix_id,
            body,
        })
    }

    /// The headers it is sent with.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, &str); 4] {
        [
            ("content-type", "application/json"),
            ("svix-id", &self.svix_id),
            ("svix-timestamp", &self.timestamp),
            ("svix-signature", &self.signature),
        ]
    }
}

/// A person who is signed in.
#[derive(Debug, Clone, Copy)]
pub struct SignIn<'a> {
    /// The Clerk user id, `user_…`.
    pub user_id: &'a str,
    /// The session id, `sess_…`.
    pub session_id: &'a str,
    /// The tokens' issuer.
    pub issuer: &'a str,
    /// The app's origin (`azp`), where usher asks for one.
    pub party: Option<&'a str>,
}

impl SignIn<'_> {
    /// The claims of a session token of Clerk's, version 2.
    #[must_use]
    pub fn claims(&self, now: DateTime<Utc>, lifetime: TimeDelta) -> Value {
        let mut claims = json!({
            "iss": self.issuer,
            "sub": self.user_id,
            "sid": self.session_id,
            "iat": now.timestamp(),
            "nbf": now.timestamp(),
            "exp": (now + lifetime).timestamp(),
            "sts": "active",
            "v": 2,
        });
        if let Some(party) = self.party {
            claims["azp"] = party.into();
        }
        claims
    }

    /// A session token.
    ///
    /// # Errors
    /// When the key can't sign.
    pub fn token(&self, signer: &DevSigner, now: DateTime<Utc>, lifetime: TimeDelta) -> Result<String, SigningError> {
        signer.sign_session(&self.claims(now, lifetime))
    }
}
