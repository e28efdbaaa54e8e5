//! Sessions of the board: a signed cookie, so that any process accepts it and none stores it. It ends with its key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::api_key::ApiKey;
use crate::ops_key::{OpsKeys, OpsRole};
use crate::secret::Secret;

/// A working day.
pub(super) const LIFETIME: TimeDelta = TimeDelta::hours(12);
/// Separate these uses of the secret from any other.
const SESSION: &[u8] = b"usher board session v1\0";
const FORM: &[u8] = b"usher board form v1\0";

/// Signs and checks cookies with the secrets of `USHER_TOKEN_KEY`: the first signs, all are accepted.
pub(super) struct Sessions(Vec<Hmac<Sha256>>);

impl Sessions {
    pub(super) fn new(secrets: &[Secret]) -> Self {
        let secrets = secrets.iter().map(|secret| secret.expose().as_bytes());
        Self(secrets.filter_map(|secret| Hmac::new_from_slice(secret).ok()).collect())
    }

    /// A cookie's value for the holder of this key: `name.expiry.nonce.signature`.
    pub(super) fn issue(&self, key: &ApiKey, now: DateTime<Utc>) -> String {
        let expiry = (now + LIFETIME).timestamp();
        let nonce = hex::encode(rand::random::<[u8; 16]>());
        let subject = format!("{}.{expiry}.{nonce}", key.name);
        let signature = self.0.first().map(|secret| session_mac(secret, key, &subject));
        format!("{subject}.{}", signature.unwrap_or_default())
    }

    /// Whose cookie it is, if it is genuine, not expired, and its key is still configured.
    pub(super) fn verify<'k>(
        &self,
        keys: &'k OpsKeys,
        cookie: &str,
        now: DateTime<Utc>,
    ) -> Option<(&'k ApiKey, OpsRole)> {
        let (subject, signature) = cookie.rsplit_once('.')?;
        let mut parts = subject.split('.');
        let (name, expiry) = (parts.next()?, parts.next()?.parse::<i64>().ok()?);
        let (key, role) = keys.named(name)?;
        let is_genuine = self
            .0
            .iter()
            .any(|secret| equal(&session_mac(secret, key, subject), signature));
        (is_genuine && now.timestamp() < expiry).then_some((key, role))
    }

    /// The token that forms of a session carry.
    pub(super) fn form_token(&self, cookie: &str) -> String {
        let made = self.0.first().map(|secret| mac(secret, &[FORM, cookie.as_bytes()]));
        made.unwrap_or_default()
    }

    pub(super) fn is_form_token(&self, cookie: &str, token: &str) -> bool {
        self.0
            .iter()
            .any(|secret| equal(&mac(secret, &[FORM, cookie.as_bytes()]), token))
    }
}

/// The key's hash is part of it, so that a key that is replaced under the same name ends its sessions.
fn session_mac(secret: &Hmac<Sha256>, key: &ApiKey, subject: &str) -> String {
    mac(secret, &[SESSION, &key.hash, subject.as_bytes()])
}

fn mac(secret: &Hmac<Sha256>, parts: &[&[u8]]) -> String {
    let mut mac = secret.clone();
    parts.iter().for_each(|part| mac.update(part));
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

fn equal(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn secret(text: &str) -> Secret {
        Secret::from(text.repeat(32))
    }

    #[test]
    fn a_session_holds_until_it_expires_or_its_key_goes() {
        let keys = OpsKeys::parse(&format!("ada:{KEY}:operate"), &[]).unwrap();
        let (ada, _) = keys.find(KEY).unwrap();
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let sessions = Sessions::new(&[secret("a")]);
        let cookie = sessions.issue(ada, now);
        let role = |sessions: &Sessions, keys: &OpsKeys, cookie: &str, now| {
            sessions.verify(keys, cookie, now).map(|(_, role)| role)
        };
        assert_eq!(role(&sessions, &keys, &cookie, now), Some(OpsRole::Operate));
        let rotated = Sessions::new(&[secret("b"), secret("a")]);
        assert_eq!(role(&rotated, &keys, &cookie, now), Some(OpsRole::Operate));
        assert_eq!(role(&sessions, &keys, &cookie, now + LIFETIME), None, "it expires");
        let replaced = OpsKeys::parse(&format!("ada:{OTHER}:operate"), &[]).unwrap();
        assert_eq!(role(&sessions, &replaced, &cookie, now), None, "its key is another now");
        let longer = cookie.replacen("18", "19", 1);
        for wrong in ["", "ada", "ada.1.2.3", &cookie[1..], &longer] {
            assert_eq!(role(&sessions, &keys, wrong, now), None, "{wrong}");
        }
        assert_eq!(role(&Sessions::new(&[secret("c")]), &keys, &cookie, now), None);
    }

    #[test]
    fn a_form_token_belongs_to_one_session() {
        let sessions = Sessions::new(&[secret("a")]);
        let token = sessions.form_token("one");
        assert!(sessions.is_form_token("one", &token));
        assert!(!sessions.is_form_token("other", &token) && !sessions.is_form_token("one", ""));
    }
}
