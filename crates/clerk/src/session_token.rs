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
mod tests {
    use std::sync::LazyLock;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::super::signing::DevSigner;
    use super::super::test_server::{Answer, TestServer};
    use super::*;

    const ISSUER: &str = "https://clerk.example.com";
    const APP: &str = "https://app.example.com";
    const NOW: i64 = 1_790_000_000;

    // Generating a key takes long enough to share two among the tests.
    static CLERK: LazyLock<DevSigner> = LazyLock::new(|| DevSigner::generate().unwrap());
    static STRANGER: LazyLock<DevSigner> = LazyLock::new(|| DevSigner::generate().unwrap());

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(NOW, 0).unwrap()
    }

    /// The usual token, made so much later, and when that is.
    fn later(after: TimeDelta, signer: &DevSigner) -> (String, DateTime<Utc>) {
        let then = now() + after;
        let claims = with("exp", json!(then.timestamp() + 50));
        (signer.sign_session(&claims).unwrap(), then)
    }

    fn claims() -> Value {
        json!({
            "sub": "user_ada", "sid": "sess_1", "iss": ISSUER, "azp": APP, "iat": NOW - 10, "nbf": NOW - 20,
            "exp": NOW + 50, "sts": "active", "v": 2, "fva": [1, -1],
        })
    }

    fn with(field: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[field] = value;
        claims
    }

    fn without(field: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(field);
        claims
    }

    fn sign(claims: &Value) -> String {
        CLERK.sign_session(claims).unwrap()
    }

    fn verifier() -> SessionVerifier {
        let pem = SessionKeys::Pem(CLERK.public_pem().unwrap());
        SessionVerifier::new(pem, Some(ISSUER.into()), vec![APP.into()]).unwrap()
    }

    async fn verify(token: &str) -> Result<SessionClaims, TokenError> {
        verifier().verify(token, now()).await
    }

    fn ada() -> SessionClaims {
        SessionClaims {
            clerk_user_id: "user_ada".into(),
            session_id: Some("sess_1".into()),
            impersonated: false,
        }
    }

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    /// A token with any header at all, signed for real with Clerk's key.
    fn sign_under(header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let pem = CLERK.to_pkcs8_pem().unwrap();
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::RS256).unwrap();
        format!("{message}.{signature}")
    }

    #[tokio::test]
    async fn a_good_token_tells_who_is_there() {
        assert_eq!(verify(&sign(&claims())).await, Ok(ada()));
    }

    #[tokio::test]
    async fn claims_are_checked_one_by_one() {
        use TokenError::{Expired, Malformed, NotYetValid, SignedOut, WrongIssuer, WrongParty};
        let cases = [
            (with("exp", json!((NOW + 50).to_string())), Err(Malformed)),
            (without("exp"), Err(Malformed)),
            (with("exp", Value::Null), Err(Malformed)),
            (with("exp", json!([NOW + 50])), Err(Malformed)),
            (with("exp", json!(NOW)), Ok(ada())),
            (with("exp", json!(NOW - 4)), Ok(ada())),
            (with("exp", json!(NOW as f64 - 4.5)), Ok(ada())),
            (with("exp", json!(NOW - 5)), Err(Expired)),
            (with("exp", json!(NOW - 3600)), Err(Expired)),
            (with("exp", json!(0)), Err(Expired)),
            (with("exp", json!(-1)), Err(Expired)),
            (without("nbf"), Ok(ada())),
            (with("nbf", json!(NOW + 5)), Ok(ada())),
            (with("nbf", json!(NOW + 6)), Err(NotYetValid)),
            (with("nbf", json!((NOW - 20).to_string())), Err(Malformed)),
            (without("iss"), Err(Malformed)),
            (with("iss", json!("")), Err(Malformed)),
            (with("iss", Value::Null), Err(Malformed)),
            (with("iss", json!([ISSUER])), Err(Malformed)),
            (with("iss", json!("https://clerk.evil.com")), Err(WrongIssuer)),
            (
                with("iss", json!("https://clerk.example.com.evil.com")),
                Err(WrongIssuer),
            ),
            (without("sub"), Err(Malformed)),
            (with("sub", json!("")), Err(Malformed)),
            (with("sub", Value::Null), Err(Malformed)),
            (with("sub", json!(7)), Err(Malformed)),
            (with("sub", json!("user\0ada")), Err(Malformed)),
            (with("sub", json!("u".repeat(256))), Err(Malformed)),
            (with("exp", json!(f64::MAX)), Ok(ada())),
            (with("exp", json!(i64::MIN)), Err(Expired)),
            (with("nbf", json!(u64::MAX)), Err(NotYetValid)),
            (without("azp"), Ok(ada())),
            (with("azp", Value::Null), Ok(ada())),
            (with("azp", json!("")), Ok(ada())),
            (with("azp", json!("https://evil.com")), Err(WrongParty)),
            (with("azp", json!("http://app.example.com")), Err(WrongParty)),
            (with("azp", json!([APP])), Err(Malformed)),
            (with("sts", json!("pending")), Err(SignedOut)),
            (with("sts", json!(true)), Err(Malformed)),
            (without("sts"), Ok(ada())),
            (with("aud", json!("somebody")), Ok(ada())),
        ];
        for (claims, expected) in cases {
            assert_eq!(verify(&sign(&claims)).await, expected, "{claims}");
        }
    }

    #[tokio::test]
    async fn the_skew_ends_to_the_millisecond() {
        let token = sign(&with("exp", json!(NOW)));
        for (milliseconds, expected) in [(4_999, Ok(ada())), (5_000, Err(TokenError::Expired))] {
            let at = now() + chrono::TimeDelta::milliseconds(milliseconds);
            assert_eq!(verifier().verify(&token, at).await, expected);
        }
    }

    #[tokio::test]
    async fn the_session_id_may_be_missing() {
        for claims in [without("sid"), with("sid", Value::Null), with("sid", json!(""))] {
            assert_eq!(verify(&sign(&claims)).await.unwrap().session_id, None);
        }
    }

    #[tokio::test]
    async fn impersonation_shows() {
        for (act, expected) in [
            (json!({"sub": "user_support"}), true),
            (json!("user_support"), true),
            (Value::Null, false),
        ] {
            let claims = verify(&sign(&with("act", act))).await.unwrap();
            assert_eq!(claims.impersonated, expected);
        }
    }

    #[tokio::test]
    async fn nothing_but_rs256_by_the_right_key_is_a_signature() {
        let header = |alg: &str| json!({"alg": alg, "typ": "JWT"});
        let good = sign(&claims());
        let (message, signature) = good.rsplit_once('.').unwrap();
        let (head, _) = message.split_once('.').unwrap();
        let other_claims = part(&with("sub", json!("user_eve")));

        let pem = CLERK.public_pem().unwrap();
        let secret = EncodingKey::from_secret(pem.as_bytes());
        let hs256 = jsonwebtoken::encode(&Header::default(), &claims(), &secret).unwrap();
        let private = CLERK.to_pkcs8_pem().unwrap();
        let rsa = EncodingKey::from_rsa_pem(private.as_bytes()).unwrap();
        let signed_with = |alg| jsonwebtoken::encode(&Header::new(alg), &claims(), &rsa).unwrap();

        let unsigned = format!("{}.{}.", part(&header("none")), part(&claims()));
        let none_signed = sign_under(&header("none"), &claims());
        let none_in_capitals = sign_under(&header("NONE"), &claims());
        let no_alg = sign_under(&json!({"typ": "JWT"}), &claims());
        for (what, token, expected) in [
            ("none", &unsigned, TokenError::Malformed),
            ("none, signed", &none_signed, TokenError::Malformed),
            ("NONE", &none_in_capitals, TokenError::Malformed),
            ("no algorithm", &no_alg, TokenError::Malformed),
            ("the PEM as a secret", &hs256, TokenError::BadSignature),
            (
                "HS256 over an RSA signature",
                &sign_under(&header("HS256"), &claims()),
                TokenError::BadSignature,
            ),
            ("RS512", &signed_with(Algorithm::RS512), TokenError::BadSignature),
            ("PS256", &signed_with(Algorithm::PS256), TokenError::BadSignature),
            (
                "another key",
                &STRANGER.sign_session(&claims()).unwrap(),
                TokenError::BadSignature,
            ),
            (
                "other claims",
                &format!("{head}.{other_claims}.{signature}"),
                TokenError::BadSignature,
            ),
            (
                "another header",
                &format!("{}.{}.{signature}", part(&header("RS256")), part(&claims())),
                TokenError::BadSignature,
            ),
            ("no signature", &format!("{message}."), TokenError::BadSignature),
            (
                "half a signature",
                &format!("{message}.{}", &signature[..172]),
                TokenError::BadSignature,
            ),
        ] {
            assert_eq!(verify(token).await, Err(expected), "{what}");
        }
    }

    #[tokio::test]
    async fn a_bad_signature_is_told_before_bad_claims() {
        let token = STRANGER.sign_session(&with("exp", json!(0))).unwrap();
        assert_eq!(verify(&token).await, Err(TokenError::BadSignature));
    }

    #[tokio::test]
    async fn other_kinds_of_token_by_the_same_key_are_refused() {
        for (header, expected) in [
            (json!({"alg": "RS256"}), Ok(ada())),
            (json!({"alg": "RS256", "typ": "jwt"}), Ok(ada())),
            (json!({"alg": "RS256", "typ": "at+jwt"}), Err(TokenError::Malformed)),
            (
                json!({"alg": "RS256", "typ": "JWT", "crit": ["exp"]}),
                Err(TokenError::Malformed),
            ),
        ] {
            assert_eq!(verify(&sign_under(&header, &claims())).await, expected, "{header}");
        }
    }

    #[tokio::test]
    async fn what_is_no_token_is_malformed() {
        let good = sign(&claims());
        for token in [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c",
            "Bearer x",
            &format!("{good}.x"),
            &format!(" {good}"),
            &format!("{good}="),
            &"a".repeat(MAX_TOKEN_BYTES + 1),
            &sign(&json!({"sub": "x".repeat(MAX_TOKEN_BYTES)})),
            &sign(&json!([1, 2])),
            &sign(&json!("user_ada")),
        ] {
            assert_eq!(verify(token).await, Err(TokenError::Malformed), "{token}");
        }
    }

    #[tokio::test]
    async fn issuer_and_party_are_compared_only_when_configured() {
        let pem = || SessionKeys::Pem(CLERK.public_pem().unwrap());
        let open = SessionVerifier::new(pem(), None, vec![]).unwrap();
        for claims in [
            with("iss", json!("https://other.example.com")),
            with("azp", json!("https://evil.com")),
        ] {
            assert_eq!(open.verify(&sign(&claims), now()).await, Ok(ada()));
        }
        assert_eq!(
            open.verify(&sign(&without("iss")), now()).await,
            Err(TokenError::Malformed)
        );

        let slashed = SessionVerifier::new(pem(), Some(format!("{ISSUER}/")), vec![format!("{APP}/")]);
        assert_eq!(slashed.unwrap().verify(&sign(&claims()), now()).await, Ok(ada()));
    }

    #[test]
    fn a_wrong_key_is_told_at_the_start() {
        let pem = CLERK.public_pem().unwrap();
        let truncated: Vec<&str> = pem.lines().take(4).collect();
        let elliptic = "-----BEGIN PUBLIC KEY-----\n\
            MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9\n\
            q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==\n\
            -----END PUBLIC KEY-----\n";
        for (text, expected) in [
            (String::new(), "not an RSA public key"),
            ("sk_test_secret".into(), "not an RSA public key"),
            (elliptic.into(), "not an RSA public key"),
            (truncated.join("\n"), "not an RSA public key"),
            (
                format!("{}\n-----END PUBLIC KEY-----", truncated.join("\n")),
                "not an RSA public key",
            ),
            (CLERK.to_pkcs8_pem().unwrap(), "a private key"),
        ] {
            let error = SessionVerifier::new(SessionKeys::Pem(text.clone()), None, vec![])
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{error} for {text:?}");
        }
    }

    #[test]
    fn an_issuer_that_proves_nothing_is_refused() {
        for issuer in [
            "http://clerk.example.com",
            "https://clerk.example.com/?x=1",
            "https://clerk.example.com/#x",
            "file:///etc/passwd",
        ] {
            let keys = SessionKeys::Jwks {
                issuer: Url::parse(issuer).unwrap(),
            };
            let result = SessionVerifier::new(keys, None, vec![]);
            assert!(matches!(result, Err(SessionVerifierError::Issuer)), "{issuer}");
        }
        let pem = SessionKeys::Pem(CLERK.public_pem().unwrap());
        let result = SessionVerifier::new(pem, Some(" ".into()), vec![]);
        assert!(matches!(result, Err(SessionVerifierError::Issuer)));
    }

    #[tokio::test]
    async fn errors_and_debug_output_hold_neither_token_nor_key() {
        let token = STRANGER.sign_session(&claims()).unwrap();
        let error = verify(&token).await.unwrap_err();
        let signature = token.rsplit('.').next().unwrap();
        assert!(!format!("{error} {error:?}").contains(signature));
        let pem = CLERK.public_pem().unwrap();
        assert!(!format!("{:?}", verifier()).contains(pem.lines().nth(1).unwrap()));
    }

    // ---- the key set, over real HTTP ----

    fn served(signer: &DevSigner) -> Answer {
        Answer::Body(200, signer.jwks_json().unwrap())
    }

    fn jwks_verifier(server: &TestServer) -> SessionVerifier {
        let keys = SessionKeys::Jwks {
            issuer: server.url.clone(),
        };
        SessionVerifier::new(keys, Some(ISSUER.into()), vec![]).unwrap()
    }

    #[tokio::test]
    async fn keys_are_fetched_once_and_kept_for_an_hour() {
        let server = TestServer::start(served(&CLERK)).await;
        let verifier = jwks_verifier(&server);
        assert_eq!(server.hits(), 0);
        let token = sign(&claims());
        for _ in 0..3 {
            assert_eq!(verifier.verify(&token, now()).await, Ok(ada()));
        }
        assert_eq!(server.hits(), 1);
        assert!(server.requests()[0].starts_with("GET /.well-known/jwks.json HTTP/1.1\r\n"));

        let (token, then) = later(KEYS_LIFETIME, &CLERK);
        assert_eq!(verifier.verify(&token, then).await, Ok(ada()));
        assert_eq!(server.hits(), 2);
    }

    #[tokio::test]
    async fn the_key_sets_issuer_is_the_default_issuer() {
        let server = TestServer::start(served(&CLERK)).await;
        let keys = SessionKeys::Jwks {
            issuer: server.url.clone(),
        };
        let verifier = SessionVerifier::new(keys, None, vec![]).unwrap();
        let own = server.url.as_str().trim_end_matches('/');
        assert_eq!(verifier.verify(&sign(&with("iss", json!(own))), now()).await, Ok(ada()));
        assert_eq!(
            verifier.verify(&sign(&claims()), now()).await,
            Err(TokenError::WrongIssuer)
        );
    }

    #[tokio::test]
    async fn a_hundred_at_once_fetch_once() {
        let server = TestServer::start(served(&CLERK)).await;
        let verifier = Arc::new(jwks_verifier(&server));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (verifier, token) = (verifier.clone(), sign(&claims()));
            tasks.spawn(async move { verifier.verify(&token, now()).await });
        }
        for result in tasks.join_all().await {
            assert_eq!(result, Ok(ada()));
        }
        assert_eq!(server.hits(), 1);
    }

    #[tokio::test]
    async fn a_rotated_key_is_found_and_made_up_ones_cost_one_fetch_in_half_a_minute() {
        let server = TestServer::start(served(&CLERK)).await;
        let verifier = jwks_verifier(&server);
        let (old, new) = (sign(&claims()), STRANGER.sign_session(&claims()).unwrap());
        assert_eq!(verifier.verify(&old, now()).await, Ok(ada()));

        for _ in 0..10 {
            assert_eq!(verifier.verify(&new, now()).await, Err(TokenError::UnknownKey));
        }
        assert_eq!(server.hits(), 1, "just fetched");
        for _ in 0..10 {
            let verdict = verifier.verify(&new, now() + REFRESH_PAUSE).await;
            assert_eq!(verdict, Err(TokenError::UnknownKey));
        }
        assert_eq!(server.hits(), 2);

        server.now_answers(served(&STRANGER));
        let (new, then) = later(REFRESH_PAUSE * 2, &STRANGER);
        assert_eq!(verifier.verify(&new, then).await, Ok(ada()));
        assert_eq!(
            verifier.verify(&old, then).await,
            Err(TokenError::UnknownKey),
            "what Clerk withdrew is void"
        );
        assert_eq!(server.hits(), 3);
    }

    #[tokio::test]
    async fn old_keys_serve_while_new_ones_cannot_be_had() {
        let server = TestServer::start(served(&CLERK)).await;
        let verifier = jwks_verifier(&server);
        let token = sign(&claims());
        assert_eq!(verifier.verify(&token, now()).await, Ok(ada()));

        server.now_answers(Answer::Body(500, "oops".into()));
        let (token, then) = later(KEYS_LIFETIME * 3, &CLERK);
        for _ in 0..3 {
            assert_eq!(verifier.verify(&token, then).await, Ok(ada()));
        }
        assert_eq!(server.hits(), 2, "and Clerk is asked once in a while only");
        assert_eq!(
            verifier.verify(&later(KEYS_LIFETIME * 3, &STRANGER).0, then).await,
            Err(TokenError::KeysUnavailable),
            "the token may be good"
        );
    }

    #[tokio::test]
    async fn old_keys_serve_for_a_day_at_most() {
        let server = TestServer::start(served(&CLERK)).await;
        let verifier = jwks_verifier(&server);
        assert_eq!(verifier.verify(&sign(&claims()), now()).await, Ok(ada()));
        server.now_answers(Answer::Body(500, "oops".into()));
        for (after, expected) in [
            (KEYS_GRACE - TimeDelta::seconds(1), Ok(ada())),
            (KEYS_GRACE, Err(TokenError::KeysUnavailable)),
            (KEYS_GRACE * 100, Err(TokenError::KeysUnavailable)),
        ] {
            let (token, then) = later(after, &CLERK);
            assert_eq!(verifier.verify(&token, then).await, expected, "{after}");
        }
        server.now_answers(served(&CLERK));
        let (token, then) = later(KEYS_GRACE * 101, &CLERK);
        assert_eq!(verifier.verify(&token, then).await, Ok(ada()));
        server.now_answers(served(&STRANGER));
        let (token, then) = later(KEYS_GRACE * 101 + KEYS_LIFETIME, &CLERK);
        assert_eq!(verifier.verify(&token, then).await, Err(TokenError::UnknownKey));
    }

    #[tokio::test]
    async fn without_any_keys_the_fault_is_ours() {
        for answer in [
            Answer::Body(503, String::new()),
            Answer::Body(200, "<html>".into()),
            Answer::Body(200, r#"{"keys":[]}"#.into()),
            Answer::Body(200, "x".repeat(2 * 1024 * 1024)),
            Answer::Redirect("/elsewhere"),
        ] {
            let server = TestServer::start(answer).await;
            let verifier = jwks_verifier(&server);
            let token = sign(&claims());
            for _ in 0..3 {
                assert_eq!(verifier.verify(&token, now()).await, Err(TokenError::KeysUnavailable));
            }
            assert_eq!(server.hits(), 1);

            server.now_answers(served(&CLERK));
            assert_eq!(verifier.verify(&token, now() + FIRST_FETCH_PAUSE).await, Ok(ada()));
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_given_three_seconds() {
        let server = TestServer::start(Answer::Silence).await;
        let verifier = jwks_verifier(&server);
        let token = sign(&claims());
        let start = tokio::time::Instant::now();
        // The paused clock jumps to the time limit once nothing else can happen.
        tokio::time::pause();
        assert_eq!(verifier.verify(&token, now()).await, Err(TokenError::KeysUnavailable));
        let taken = start.elapsed();
        assert!(taken >= FETCH_TIME_LIMIT && taken < FETCH_TIME_LIMIT * 2, "{taken:?}");
    }

    #[tokio::test]
    async fn a_caller_who_hangs_up_does_not_lose_the_fetch() {
        let server = TestServer::start(served(&CLERK)).await;
        let verifier = jwks_verifier(&server);
        let token = sign(&claims());
        {
            let mut first = std::pin::pin!(verifier.verify(&token, now()));
            let hung_up = tokio::select! {
                biased;
                _ = &mut first => false,
                () = tokio::task::yield_now() => true,
            };
            assert!(hung_up);
        }
        assert_eq!(verifier.verify(&token, now()).await, Ok(ada()));
        assert_eq!(server.hits(), 1);
    }

    #[tokio::test]
    async fn a_token_without_key_id_or_with_another_algorithm_asks_nobody() {
        let server = TestServer::start(served(&CLERK)).await;
        let verifier = jwks_verifier(&server);
        for (header, expected) in [
            (json!({"alg": "RS256"}), TokenError::UnknownKey),
            (json!({"alg": "HS256", "kid": "made up"}), TokenError::BadSignature),
            (json!({"alg": "none", "kid": "made up"}), TokenError::Malformed),
        ] {
            let token = sign_under(&header, &claims());
            assert_eq!(verifier.verify(&token, now()).await, Err(expected));
        }
        assert_eq!(server.hits(), 0);
    }

    #[tokio::test]
    async fn a_token_by_another_key_under_a_known_id_is_refused() {
        let server = TestServer::start(served(&STRANGER)).await;
        let header = json!({"alg": "RS256", "kid": STRANGER.key_id()});
        assert_eq!(
            jwks_verifier(&server)
                .verify(&sign_under(&header, &claims()), now())
                .await,
            Err(TokenError::BadSignature)
        );
    }

    #[test]
    fn unusable_keys_of_a_set_are_passed_over() {
        let set: Value = serde_json::from_str(&CLERK.jwks_json().unwrap()).unwrap();
        let good = &set["keys"][0];
        let altered = |field: &str, value: Value| {
            let mut key = good.clone();
            key[field] = value;
            key["kid"] = json!("altered");
            key
        };
        let body = json!({"keys": [
            {"kty": "quantum", "kid": "q"},
            "nonsense",
            altered("use", json!("enc")),
            altered("alg", json!("RS512")),
            altered("kty", json!("EC")),
            altered("n", json!("***")),
            {"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"},
            good,
        ]});
        let keys = usable_keys(body.to_string().as_bytes());
        assert_eq!(keys.keys().collect::<Vec<_>>(), [good["kid"].as_str().unwrap()]);
    }
}
