//! Link tokens. They are derived and never stored, so that neither the database nor the queue nor a log can leak one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

/// Bytes: invite id, then version as big-endian `u32`.
const SUBJECT: usize = 16 + 4;
/// Bytes of HMAC-SHA256.
const TAG: usize = 32;
/// Separates this use of the key from any other.
const CONTEXT: &[u8] = b"usher invite link v1\0";

/// The secrets of link tokens: the first one creates tokens, all of them verify tokens. So a secret can be replaced
/// while links made with the older one are still in use.
#[derive(Clone)]
pub struct TokenKey {
    newest: Hmac<Sha256>,
    older: Vec<Hmac<Sha256>>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

/// The content of a genuine token. Whether its version is still valid depends on the invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkClaim {
    pub invite_id: Uuid,
    /// The link's version; renewing the invite with a mail increments it and makes older links invalid.
    pub version: i32,
}

impl TokenKey {
    /// A key from a secret of any length; the configuration requires at least 32 characters.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self {
            newest: hmac(secret),
            older: Vec::new(),
        }
    }

    /// Also accepts tokens of an older secret.
    #[must_use]
    pub fn or(mut self, older: &[u8]) -> Self {
        self.older.push(hmac(older));
        self
    }

    /// The token for one version of an invite's link: `base64url(invite_id ‖ version ‖ HMAC-SHA256)`.
    #[must_use]
    pub fn token(&self, claim: LinkClaim) -> String {
        let mut bytes = Vec::with_capacity(SUBJECT + TAG);
        bytes.extend_from_slice(claim.invite_id.as_bytes());
        bytes.extend_from_slice(&claim.version.to_be_bytes());
        let tag = mac(&self.newest, &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Verifies a token; `None` if it was made with none of the secrets. Compares in constant time and needs no
    /// database.
    #[must_use]
    pub fn verify(&self, token: &str) -> Option<LinkClaim> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        if bytes.len() != SUBJECT + TAG {
            return None;
        }
        let (subject, tag) = bytes.split_at(SUBJECT);
        let mut keys = std::iter::once(&self.newest).chain(&self.older);
        keys.find(|key| mac(key, subject).verify_slice(tag).is_ok())?;
        let (id, version) = subject.split_at(16);
        Some(LinkClaim {
            invite_id: Uuid::from_slice(id).ok()?,
            version: i32::from_be_bytes(version.try_into().ok()?),
        })
    }
}

fn hmac(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Default::default()))
}

fn mac(key: &Hmac<Sha256>, subject: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(CONTEXT);
    mac.update(subject);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(version: i32) -> LinkClaim {
        LinkClaim {
            invite_id: Uuid::from_u128(7),
            version,
        }
    }

    #[test]
    fn a_token_names_its_invite_and_version() {
        let key = TokenKey::new(b"0123456789abcdef0123456789abcdef");
        let token = key.token(claim(3));
        assert_eq!(key.verify(&token), Some(claim(3)));
        assert_eq!(token, key.token(claim(3)), "derived, so always the same");
        assert_ne!(token, key.token(claim(4)));
    }

    #[test]
    fn the_newest_secret_makes_tokens_and_those_of_older_ones_are_taken() {
        let (old, new) = (
            b"0123456789abcdef0123456789abcdef",
            b"another-secret-of-thirty-two-chars",
        );
        let both = TokenKey::new(new).or(old);
        assert_eq!(both.token(claim(1)), TokenKey::new(new).token(claim(1)));
        assert_eq!(both.verify(&TokenKey::new(old).token(claim(1))), Some(claim(1)));
        assert_eq!(TokenKey::new(new).verify(&TokenKey::new(old).token(claim(1))), None);
        assert_eq!(TokenKey::new(old).verify(&both.token(claim(1))), None);
    }

    #[test]
    fn a_token_that_this_key_did_not_make_is_nothing() {
        let key = TokenKey::new(b"0123456789abcdef0123456789abcdef");
        let token = key.token(claim(1));
        let other = TokenKey::new(b"another-secret-of-thirty-two-chars").token(claim(1));
        let mut flipped = token.clone().into_bytes();
        flipped[21] ^= 1;
        for forged in [
            String::new(),
            "x".to_owned(),
            token[..token.len() - 1].to_owned(),
            format!("{token}A"),
            format!("{token}="),
            String::from_utf8(flipped).unwrap(),
            other,
        ] {
            assert_eq!(key.verify(&forged), None, "{forged}");
        }
    }
}
