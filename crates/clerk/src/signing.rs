//! A key pair that plays Clerk: it signs session tokens for the demo, `usher simulate` and the tests.
//!
//! Only the public half, as PEM or key set, ever meets the code that verifies, so what these tokens prove is real.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use pem::{EncodeConfig, LineEnding, Pem};
use serde::Serialize;

/// Why a development key can't be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The system gave no key.
    #[error("a key could not be generated")]
    Generate,
    /// The text is not an RSA private key of at least 2048 bits in PKCS#8 PEM.
    #[error("not an RSA private key in PEM (PKCS#8)")]
    NotAPrivateKey,
    /// The key could not be written out.
    #[error("the key could not be encoded")]
    Encode,
    /// The claims could not be written as JSON or signed.
    #[error("the token could not be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Signs session tokens as Clerk does: RS256, with a `kid` in the header.
pub struct DevSigner {
    pair: KeyPair,
    key: EncodingKey,
    key_id: String,
}

/// Without the key.
impl fmt::Debug for DevSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevSigner")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl DevSigner {
    /// A fresh RSA-2048 key pair. Takes a noticeable fraction of a second in some runs: primes are found by chance.
    pub fn generate() -> Result<DevSigner, SigningError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| SigningError::Generate)?;
        DevSigner::from_pkcs8_pem(&pkcs8_pem(&pair)?)
    }

    /// Reads back what [`to_pkcs8_pem`](Self::to_pkcs8_pem) wrote.
    pub fn from_pkcs8_pem(pem: &str) -> Result<DevSigner, SigningError> {
        let not_a_key = |_| SigningError::NotAPrivateKey;
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(not_a_key)?;
        // `from_rsa_pem` looks at the wrapping only; the key itself is checked here.
        let pair = KeyPair::from_der(key.as_bytes()).map_err(|_| SigningError::NotAPrivateKey)?;
        let key_id = Jwk::from_encoding_key(&key, Algorithm::RS256)
            .and_then(|jwk| jwk.thumbprint(ThumbprintHash::SHA256))
            .map_err(not_a_key)?;
        Ok(DevSigner { pair, key, key_id })
    }

    /// The private key, to be kept in a file that only its owner can read.
    pub fn to_pkcs8_pem(&self) -> Result<String, SigningError> {
        pkcs8_pem(&self.pair)
    }

    /// The public key as Clerk's dashboard shows it: what goes into `CLERK_JWT_KEY`.
    pub fn public_pem(&self) -> Result<String, SigningError> {
        let der = self.pair.public_key().as_der();
        Ok(pem_of("PUBLIC KEY", der.map_err(|_| SigningError::Encode)?.as_ref()))
    }

    /// The `kid` of every token it signs: the key's RFC 7638 thumbprint, so it stays the same when the key is kept.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Signs any claims, right or wrong; times in them are seconds.
    pub fn sign_session(&self, claims: &impl Serialize) -> Result<String, SigningError> {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.key).map_err(SigningError::Sign)
    }

    /// The key set that Clerk would serve at `/.well-known/jwks.json`.
    pub fn jwks_json(&self) -> Result<String, SigningError> {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::RS256).map_err(|_| SigningError::Encode)?;
        jwk.common.key_id = Some(self.key_id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        serde_json::to_string(&JwkSet { keys: vec![jwk] }).map_err(|_| SigningError::Encode)
    }
}

fn pkcs8_pem(pair: &KeyPair) -> Result<String, SigningError> {
    let der = pair.as_der().map_err(|_| SigningError::Encode)?;
    Ok(pem_of("PRIVATE KEY", der.as_ref()))
}

fn pem_of(label: &str, der: &[u8]) -> String {
    let unix = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new(label, der), unix)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_key_survives_being_kept_in_a_file() {
        let signer = DevSigner::generate().unwrap();
        let kept = signer.to_pkcs8_pem().unwrap();
        assert!(kept.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert!(kept.ends_with("\n-----END PRIVATE KEY-----\n"));
        assert!(kept.lines().all(|line| line.len() <= 64));

        let again = DevSigner::from_pkcs8_pem(&kept).unwrap();
        assert_eq!(again.to_pkcs8_pem().unwrap(), kept);
        assert_eq!(again.public_pem().unwrap(), signer.public_pem().unwrap());
        assert_eq!(again.key_id(), signer.key_id());
        // RS256 is deterministic.
        let claims = json!({"sub": "user_ada"});
        assert_eq!(
            again.sign_session(&claims).unwrap(),
            signer.sign_session(&claims).unwrap()
        );
    }

    #[test]
    fn only_a_private_rsa_key_is_read() {
        let signer = DevSigner::generate().unwrap();
        let truncated: String = signer.to_pkcs8_pem().unwrap().lines().take(5).collect();
        for text in ["", "hello", &signer.public_pem().unwrap(), &truncated] {
            assert!(matches!(
                DevSigner::from_pkcs8_pem(text),
                Err(SigningError::NotAPrivateKey)
            ));
        }
    }

    #[test]
    fn the_key_set_holds_the_public_half_only() {
        let signer = DevSigner::generate().unwrap();
        let set: Value = serde_json::from_str(&signer.jwks_json().unwrap()).unwrap();
        let key = set["keys"][0].as_object().unwrap();
        assert_eq!(key["kty"], "RSA");
        assert_eq!(key["alg"], "RS256");
        assert_eq!(key["use"], "sig");
        assert_eq!(key["e"], "AQAB");
        assert_eq!(key["kid"], signer.key_id());
        assert!(!key.contains_key("d"));
    }

    #[test]
    fn debug_output_holds_no_key() {
        let signer = DevSigner::generate().unwrap();
        assert_eq!(
            format!("{signer:?}"),
            format!("DevSigner {{ key_id: {:?}, .. }}", signer.key_id())
        );
    }
}
