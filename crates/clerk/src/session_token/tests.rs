use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::super::signing::DevSigner;
use super::super::test_log::log;
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
async fn a_token_may_have_sixteen_kibibytes() {
    let most = 16 * 1024;
    let padded = |padding: usize| sign(&with("padding", json!("x".repeat(padding))));
    // Base64 makes four characters of three.
    let padding = (most - padded(0).len()) / 4 * 3;
    let tokens: Vec<String> = (padding - 3..padding + 6).map(padded).collect();
    assert!(tokens.iter().any(|token| token.len() == most));
    for token in tokens {
        let expected = if token.len() <= most {
            Ok(ada())
        } else {
            Err(TokenError::Malformed)
        };
        assert_eq!(verify(&token).await, expected, "{}", token.len());
    }
}

#[tokio::test]
async fn an_issuer_that_is_not_the_configured_one_is_logged_once_a_minute() {
    let (lines, _guard) = log();
    let (verifier, token) = (verifier(), sign(&with("iss", json!("https://clerk.other.example"))));
    for _ in 0..3 {
        assert_eq!(verifier.verify(&token, now()).await, Err(TokenError::WrongIssuer));
    }
    let log = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
    let expected = format!("CLERK_ISSUER is {ISSUER}, the token's is \"https://clerk.other.example\"");
    assert!(log.contains(&expected), "{log}");
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
    let (lines, _guard) = log();
    for (after, expected) in [
        (KEYS_GRACE - TimeDelta::seconds(1), Ok(ada())),
        (KEYS_GRACE, Err(TokenError::KeysUnavailable)),
        (KEYS_GRACE * 100, Err(TokenError::KeysUnavailable)),
    ] {
        let (token, then) = later(after, &CLERK);
        assert_eq!(verifier.verify(&token, then).await, expected, "{after}");
    }
    let log = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    let told = "session tokens are answered with 503 until they can";
    assert_eq!(log.matches(told).count(), 1, "{log}");
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
    assert_eq!(
        tokio::time::timeout(FETCH_TIME_LIMIT * 2, verifier.verify(&token, now())).await,
        Ok(Err(TokenError::KeysUnavailable))
    );
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
