//! Signs messages as Svix does: for the demo, `usher simulate` and the tests.

use svix::webhooks::{Webhook, WebhookError};

/// The `svix-signature` header of a message.
///
/// # Errors
/// When the secret is empty or not base64.
pub fn sign(secret: &str, svix_id: &str, timestamp: i64, body: &[u8]) -> Result<String, WebhookError> {
    Webhook::new(secret)?.sign(svix_id, timestamp, body)
}
