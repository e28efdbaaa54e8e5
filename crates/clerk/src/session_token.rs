//! Clerk's session tokens: who is behind a request.
//!
//! The algorithm is pinned to RS256, whatever the header says. The time is an argument: jsonwebtoken would ask the system
//! clock, so its own checks of `exp` and `nbf` are off and made here.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::Url;

use super::bounds::check_id;
use super::{describe, http_client, is_https_or_loopback, public_key, read_body};
use usher_base::Throttle;

/// How far Clerk's clock and ours may be apart, in seconds.
const SKEW_SECONDS: f64 = 5.0;

/// Session tokens live in a cookie, which holds 4 KiB; more isn't one, and isn't worth the arithmetic.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How long a fetched key set is good for.
const KEYS_LIFETIME: TimeDelta = TimeDelta::hours(1);

/// How long it goes on being used where no newer one can be had. Clerk may have withdrawn a key of it meanwhile.
const KEYS_GRACE: TimeDelta = TimeDelta::days(1);

/// The least time between two fetches: made-up key ids must not become traffic to Clerk.
const REFRESH_PAUSE: TimeDelta = TimeDelta::seconds(30);

/// The same while no key set was ever had: a hiccup at the start must not refuse everybody for half a minute.
const FIRST_FETCH_PAUSE: TimeDelta = TimeDelta::seconds(5);

/// Characters of a token's issuer that are logged.
const MAX_SHOWN_ISSUER: usize = 200;

/// How long a fetch may take.
const FETCH_TIME_LIMIT: Duration = Duration::from_secs(3);

/// Where the keys come from that sign session tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionKeys {
    /// The PEM public key from Clerk's dashboard, in any of the forms that environment files make of it.
    Pem(String),
    /// The key set at `{issuer}/.well-known/jwks.json`.
    Jwks {
        /// The Frontend API address, e.g. `https://clerk.example.com`; https, or http on this machine.
        issuer: Url,
    },
}

/// Why a verifier can't be made. The text never includes a key.
#[derive(Debug, thiserror::Error)]
pub enum SessionVerifierError {
    /// The text is no RSA public key in PEM.
    #[error("not an RSA public key in PEM (`-----BEGIN PUBLIC KEY-----`)")]
    NotAPublicKey,
    /// A private key where the public one belongs.
    #[error("a private key, where the public key belongs")]
    PrivateKey,
    /// RS256 asks for 2048 bits at least.
    #[error("an RSA key of {bits} bits; at least 2048 are needed")]
    KeyTooShort {
        /// The length of the modulus.
        bits: usize,
    },
    /// The issuer is empty, or keys from its address couldn't be trusted.
    #[error("the issuer must be an https address without query or fragment")]
    Issuer,
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be set up")]
    HttpClient(#[source] reqwest::Error),
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionClaims {
    /// `sub`: printable ASCII, 1 to 255 bytes.
    pub clerk_user_id: String,
    /// `sid`, where it can be the id of a session.
    pub session_id: Option<String>,
    /// `act` is there: somebody else acts as the user, who may look but not decide for them.
    pub impersonated: bool,
}

/// Why a token is refused. The text never includes the token or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT, or a required claim is missing or of the wrong type.
    #[error("the session token is malformed")]
    Malformed,
    /// Not signed by the key, or not with RS256.
    #[error("the session token's signature is wrong")]
    BadSignature,
    /// `exp` is past.
    #[error("the session token has expired")]
    Expired,
    /// `nbf` is ahead.
    #[error("the session token is not valid yet")]
    NotYetValid,
    /// `iss` is not the configured issuer.
    #[error("the session token is from another issuer")]
    WrongIssuer,
    /// `azp` is none of the authorized parties.
    #[error("the session token was made for another party")]
    WrongParty,
    /// `sts` is `pending`: tasks are open, and until they are done nobody is signed in.
    #[error("the session is pending")]
    SignedOut,
    /// The key set holds no key of the token's `kid`.
    #[error("the session token's key is unknown")]
    UnknownKey,
    /// The key set can't be had just now: not the token's fault.
    #[error("the keys to verify session tokens are unavailable")]
    KeysUnavailable,
}

/// Verifies Clerk's session tokens.
#[derive(Debug)]
pub struct SessionVerifier {
    keys: KeySource,
    issuer: Option<String>,
    authorized_parties: Vec<String>,
    validation: Validation,
    /// Whoever holds a token of another Clerk instance with the same key can cause the line.
    wrong_issuer: Throttle,
}

#[derive(Debug)]
enum KeySource {
    Pem(Arc<DecodingKey>),
    Jwks(Arc<KeySet>),
}

impl SessionVerifier {
    /// A verifier that compares `iss` with `issuer` and, unless the list is empty, `azp` with `authorized_parties`.
    ///
    /// With a key set and no `issuer`, the key set's issuer is compared: Clerk signs so. A slash at the end of the issuer
    /// or of a party is ignored. Nothing is fetched yet.
    ///
    /// # Errors
    ///
    /// See [`SessionVerifierError`].
    pub fn new(
        keys: SessionKeys,
        issuer: Option<String>,
        authorized_parties: Vec<String>,
    ) -> Result<SessionVerifier, SessionVerifierError> {
        let (keys, default_issuer) = match keys {
            SessionKeys::Pem(pem) => (KeySource::Pem(Arc::new(public_key::read(&pem)?)), None),
            SessionKeys::Jwks { issuer } => (
                KeySource::Jwks(Arc::new(KeySet::of(&issuer)?)),
                Some(without_login(&issuer).to_string()),
            ),
        };
        let issuer = issuer.or(default_issuer).map(|issuer| without_slash(&issuer));
        if issuer.as_deref() == Some("") {
            return Err(SessionVerifierError::Issuer);
        }
        Ok(SessionVerifier {
            keys,
            issuer,
            authorized_parties: authorized_parties.iter().map(|party| without_slash(party)).collect(),
            validation: signature_only(),
            wrong_issuer: Throttle::per_minute(),
        })
    }

    /// Checks the signature, then the claims, as of `now`. Asks Clerk for keys when they are unknown or old.
    ///
    /// # Errors
    ///
    /// [`TokenError::KeysUnavailable`] is ours and passes; all others are the token's.
    pub async fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<SessionClaims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let key_id = check_header(token)?;
        let key = match &self.keys {
            KeySource::Pem(key) => key.clone(),
            KeySource::Jwks(set) => set.key(&key_id.ok_or(TokenError::UnknownKey)?, now).await?,
        };
        let claims = jsonwebtoken::decode::<RawClaims>(token, &key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::BadSignature,
                _ => TokenError::Malformed,
            })?
            .claims;
        self.check_claims(claims, now)
    }

    fn check_claims(&self, claims: RawClaims, now: DateTime<Utc>) -> Result<SessionClaims, TokenError> {
        if check_id(&claims.sub).is_err() || claims.iss.is_empty() {
            return Err(TokenError::Malformed);
        }
        if let Some(issuer) = self.issuer.as_ref().filter(|issuer| **issuer != claims.iss) {
            self.tell_of_issuer(issuer, &claims.iss);
            return Err(TokenError::WrongIssuer);
        }
        let now = now.timestamp_millis() as f64 / 1000.0;
        if now >= claims.exp + SKEW_SECONDS {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|nbf| now < nbf - SKEW_SECONDS) {
            return Err(TokenError::NotYetValid);
        }
        let party = claims.azp.filter(|party| !party.is_empty());
        if party.is_some_and(|party| !self.is_authorized(&party)) {
            return Err(TokenError::WrongParty);
        }
        if claims.sts.as_deref() == Some("pending") {
            return Err(TokenError::SignedOut);
        }
        Ok(SessionClaims {
            clerk_user_id: claims.sub,
            session_id: claims.sid.filter(|id| check_id(id).is_ok()),
            impersonated: claims.act.is_some(),
        })
    }

    /// The signature is right, so it is the configuration that is not: without a word, everybody would be refused.
    fn tell_of_issuer(&self, configured: &str, found: &str) {
        if let Some(left_out) = self.wrong_issuer.admit() {
            let found: String = found.chars().take(MAX_SHOWN_ISSUER).collect();
            tracing::warn!(
                configured,
                found,
                left_out,
                "a session token has the right signature and another issuer: CLERK_ISSUER is {configured}, the token's \
                 is {found:?}; it was refused"
            );
        }
    }

    fn is_authorized(&self, party: &str) -> bool {
        self.authorized_parties.is_empty() || self.authorized_parties.iter().any(|known| known == party)
    }
}

/// The claims as Clerk writes them. Times are seconds, and numbers: a string fails here.
#[derive(Deserialize)]
struct RawClaims {
    sub: String,
    iss: String,
    exp: f64,
    nbf: Option<f64>,
    azp: Option<String>,
    sid: Option<String>,
    sts: Option<String>,
    act: Option<IgnoredAny>,
}

/// Checks what can be said before any key is looked for, and gives the `kid`.
fn check_header(token: &str) -> Result<Option<String>, TokenError> {
    // An `alg` that jsonwebtoken doesn't know, such as `none`, fails here.
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
    if header.alg != Algorithm::RS256 {
        return Err(TokenError::BadSignature);
    }
    // Clerk signs OAuth access tokens (`at+jwt`) with the same key; those are not sign-ins.
    let other_type = header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT"));
    // RFC 7515, 4.1.11: critical extensions that aren't understood void the token.
    if other_type || header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    Ok(header.kid)
}

fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    // Session tokens have no audience by default; where one was added it is meant for somebody who asks for it.
    validation.validate_aud = false;
    validation
}

/// The address without user and password: tokens name it so.
fn without_login(address: &Url) -> Url {
    let mut address = address.clone();
    // They fail for addresses that can't have either.
    let _ = address.set_username("");
    let _ = address.set_password(None);
    address
}

fn without_slash(address: &str) -> String {
    address.trim().trim_end_matches('/').to_owned()
}

/// The issuer's keys, fetched when they are needed.
#[derive(Debug)]
struct KeySet {
    url: Url,
    http: reqwest::Client,
    cached: RwLock<Cached>,
    /// The address as logs may have it.
    shown: String,
    /// Held by the one who fetches; holds the time of the last attempt.
    last_attempt: tokio::sync::Mutex<Option<DateTime<Utc>>>,
    too_old: Throttle,
}

#[derive(Debug, Default)]
struct Cached {
    keys: HashMap<String, Arc<DecodingKey>>,
    fetched_at: Option<DateTime<Utc>>,
}

impl KeySet {
    fn of(issuer: &Url) -> Result<KeySet, SessionVerifierError> {
        let plain = issuer.query().is_none() && issuer.fragment().is_none();
        if !plain || !is_https_or_loopback(issuer) {
            return Err(SessionVerifierError::Issuer);
        }
        let url = format!("{}/.well-known/jwks.json", without_slash(issuer.as_str()));
        let url = Url::parse(&url).map_err(|_| SessionVerifierError::Issuer)?;
        Ok(KeySet {
            shown: without_login(&url).to_string(),
            url,
            http: http_client(FETCH_TIME_LIMIT).map_err(SessionVerifierError::HttpClient)?,
            cached: RwLock::default(),
            last_attempt: tokio::sync::Mutex::default(),
            too_old: Throttle::per_minute(),
        })
    }

    /// The key of this id; one of at most a day ago if newer ones can't be had.
    async fn key(self: &Arc<Self>, key_id: &str, now: DateTime<Utc>) -> Result<Arc<DecodingKey>, TokenError> {
        if let Some(key) = self.fresh(key_id, now) {
            return Ok(key);
        }
        // In a task of its own: a caller who hangs up must not use up the attempt of everybody else.
        let (set, wanted) = (self.clone(), key_id.to_owned());
        let refreshed = tokio::spawn(async move { set.refresh(&wanted, now).await }).await;
        if refreshed.is_err() {
            tracing::error!(url = %self.shown, "fetching Clerk's keys was cut short");
        }
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        match cached.keys.get(key_id) {
            Some(key) if cached.is_younger(KEYS_GRACE, now) => Ok(key.clone()),
            Some(_) => {
                self.tell_of_age(&cached);
                Err(TokenError::KeysUnavailable)
            }
            None if cached.is_younger(KEYS_LIFETIME, now) => Err(TokenError::UnknownKey),
            None => Err(TokenError::KeysUnavailable),
        }
    }

    fn tell_of_age(&self, cached: &Cached) {
        if let Some(left_out) = self.too_old.admit() {
            let since = cached.fetched_at.map(|at| at.to_rfc3339()).unwrap_or_default();
            tracing::error!(
                url = %self.shown,
                left_out,
                "Clerk's keys are from {since}, more than a day ago, and newer ones can't be fetched: session tokens are \
                 answered with 503 until they can"
            );
        }
    }

    fn fresh(&self, key_id: &str, now: DateTime<Utc>) -> Option<Arc<DecodingKey>> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        let key = cached.keys.get(key_id)?;
        cached.is_younger(KEYS_LIFETIME, now).then(|| key.clone())
    }

    /// Fetches the keys, unless another caller just did or tried to.
    async fn refresh(&self, wanted: &str, now: DateTime<Utc>) {
        let mut last_attempt = self.last_attempt.lock().await;
        if self.fresh(wanted, now).is_some() {
            return;
        }
        let fetched_at = self.fetched_at();
        let pause = if fetched_at.is_some() {
            REFRESH_PAUSE
        } else {
            FIRST_FETCH_PAUSE
        };
        if last_attempt.is_some_and(|at| (now - at).abs() < pause) {
            return;
        }
        *last_attempt = Some(now);
        match self.fetch().await {
            Ok(keys) => {
                let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
                *cached = Cached {
                    keys,
                    fetched_at: Some(now),
                };
            }
            Err(reason) => {
                let until =
                    fetched_at.map(|at| format!("; the old ones serve until {}", (at + KEYS_GRACE).to_rfc3339()));
                let until = until.unwrap_or_default();
                tracing::warn!(url = %self.shown, reason, "Clerk's keys can't be fetched: {reason}{until}");
            }
        }
    }

    fn fetched_at(&self) -> Option<DateTime<Utc>> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        cached.fetched_at
    }

    async fn fetch(&self) -> Result<HashMap<String, Arc<DecodingKey>>, String> {
        let request = self.http.get(self.url.clone());
        let response = request.send().await.map_err(|error| describe(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let keys = usable_keys(&read_body(response).await?);
        // An empty set would turn a fault at Clerk's into "unknown key" for everybody.
        if keys.is_empty() {
            return Err("the answer holds no RS256 key".to_owned());
        }
        Ok(keys)
    }
}

impl Cached {
    /// A clock that was set back makes nothing young again.
    fn is_younger(&self, age: TimeDelta, now: DateTime<Utc>) -> bool {
        self.fetched_at.is_some_and(|at| (now - at).abs() < age)
    }
}

/// The keys of a set that can sign with RS256. Others are passed over: a set may hold kinds that are yet to be invented.
fn usable_keys(body: &[u8]) -> HashMap<String, Arc<DecodingKey>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }

    #[derive(Deserialize)]
    struct RsaKey {
        kid: String,
        kty: String,
        n: String,
        e: String,
        alg: Option<String>,
        #[serde(rename = "use")]
        purpose: Option<String>,
    }

    let Ok(set) = serde_json::from_slice::<Set>(body) else {
        return HashMap::new();
    };
    set.keys
        .into_iter()
        .filter_map(|key| serde_json::from_value::<RsaKey>(key).ok())
        .filter(|key| key.kty == "RSA")
        .filter(|key| key.alg.as_deref().is_none_or(|alg| alg == "RS256"))
        .filter(|key| key.purpose.as_deref().is_none_or(|purpose| purpose == "sig"))
        .filter_map(|key| {
            let decoding = DecodingKey::from_rsa_components(&key.n, &key.e).ok()?;
            Some((key.kid, Arc::new(decoding)))
        })
        .collect()
}

#[cfg(test)]
mod tests;
