use super::*;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
const SIGNED_AT: i64 = 1_649_367_553;

fn signatures(secrets: &[&str]) -> Signatures {
    let secrets: Vec<_> = secrets.iter().map(|&secret| Secret::from(secret.to_owned())).collect();
    Signatures::new(&secrets).unwrap()
}

fn headers(prefix: &str, id: &str, timestamp: &str, signature: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [("id", id), ("timestamp", timestamp), ("signature", signature)] {
        if value != "absent" {
            let name: axum::http::HeaderName = format!("{prefix}-{name}").parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
    }
    headers
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn verify(secrets: &[&str], headers: &HeaderMap, body: &[u8], now: i64) -> Result<String, SignatureError> {
    signatures(secrets).verify(&SignatureHeaders::read(headers, at(now))?, body)
}

#[test]
fn svix_own_published_vector_verifies_under_both_header_families_and_beside_other_secrets() {
    for secrets in [vec![SECRET], vec![OTHER, SECRET], vec![SECRET, OTHER]] {
        for prefix in ["svix", "webhook"] {
            let headers = headers(prefix, ID, "1649367553", SIGNATURE);
            let verified = verify(&secrets, &headers, BODY, SIGNED_AT);
            assert_eq!(verified.as_deref(), Ok(ID), "{prefix}");
        }
    }
    let several = format!("v0,xyz v1,AAAA {SIGNATURE}");
    let headers = headers("svix", ID, "1649367553", &several);
    assert!(verify(&[SECRET], &headers, BODY, SIGNED_AT).is_ok());
}

#[test]
fn everything_else_is_refused() {
    use SignatureError::{Header, Mismatch, Timestamp};
    let signed = |signature: &str| headers("svix", ID, "1649367553", signature);
    let truncated = &SIGNATURE[..SIGNATURE.len() - 4];
    for (what, secret, headers, body, now, error) in [
        ("stale", SECRET, signed(SIGNATURE), BODY, SIGNED_AT + 301, Timestamp),
        (
            "from the future",
            SECRET,
            signed(SIGNATURE),
            BODY,
            SIGNED_AT - 301,
            Timestamp,
        ),
        ("wrong secret", OTHER, signed(SIGNATURE), BODY, SIGNED_AT, Mismatch),
        (
            "changed body",
            SECRET,
            signed(SIGNATURE),
            b"{}".as_slice(),
            SIGNED_AT,
            Mismatch,
        ),
        ("empty signature", SECRET, signed("v1,"), BODY, SIGNED_AT, Mismatch),
        (
            "truncated signature",
            SECRET,
            signed(truncated),
            BODY,
            SIGNED_AT,
            Mismatch,
        ),
        (
            "unknown version",
            SECRET,
            signed(&SIGNATURE.replace("v1", "v2")),
            BODY,
            SIGNED_AT,
            Mismatch,
        ),
        ("no signature", SECRET, signed("absent"), BODY, SIGNED_AT, Header),
        (
            "no id",
            SECRET,
            headers("svix", "absent", "1649367553", SIGNATURE),
            BODY,
            SIGNED_AT,
            Header,
        ),
        (
            "no timestamp",
            SECRET,
            headers("svix", ID, "absent", SIGNATURE),
            BODY,
            SIGNED_AT,
            Header,
        ),
        (
            "words for a timestamp",
            SECRET,
            headers("svix", ID, "noon", SIGNATURE),
            BODY,
            SIGNED_AT,
            Header,
        ),
        (
            "the first of all times",
            SECRET,
            headers("svix", ID, &i64::MIN.to_string(), SIGNATURE),
            BODY,
            SIGNED_AT,
            Timestamp,
        ),
        (
            "the last of all times",
            SECRET,
            headers("svix", ID, &i64::MAX.to_string(), SIGNATURE),
            BODY,
            SIGNED_AT,
            Timestamp,
        ),
        (
            "after all times",
            SECRET,
            headers("svix", ID, "9223372036854775808", SIGNATURE),
            BODY,
            SIGNED_AT,
            Header,
        ),
        (
            "another id",
            SECRET,
            headers("svix", "msg_other", "1649367553", SIGNATURE),
            BODY,
            SIGNED_AT,
            Mismatch,
        ),
        (
            "another timestamp",
            SECRET,
            headers("svix", ID, "1649367554", SIGNATURE),
            BODY,
            SIGNED_AT,
            Mismatch,
        ),
    ] {
        assert_eq!(verify(&[secret], &headers, body, now), Err(error), "{what}");
    }
    for edge in [-300, 300] {
        assert!(verify(&[SECRET], &signed(SIGNATURE), BODY, SIGNED_AT + edge).is_ok());
    }
}

#[test]
fn a_secret_that_is_empty_or_not_base64_never_verifies_anything() {
    for secret in ["", "whsec_", "whsec_***"] {
        assert!(
            Signatures::new(&[Secret::from(secret.to_owned())]).is_err(),
            "{secret:?}"
        );
    }
}
