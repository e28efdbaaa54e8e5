//! What usher knows of Clerk: its webhook events, its session tokens and its Backend API.
//!
//! A leaf: nothing here knows of invites, the store or the configuration. E-mail addresses are plain strings, exactly as
//! Clerk sends them; comparing them is the domain's business.
//!
//! - [`event`]: webhook payloads, parsed into what usher acts on.
//! - [`session_token`]: who is behind an `Authorization: Bearer` or `__session` token.
//! - [`backend`]: asking Clerk for a user whose webhook has not come.
//! - [`probe`]: whether Clerk answers, and what time it is there.
//! - [`signing`]: a key pair that plays Clerk in development, the demo and the tests.

#![warn(missing_docs)]

pub mod backend;
mod bounds;
pub mod event;
pub mod probe;
mod public_key;
pub mod session_token;
pub mod signing;
#[cfg(test)]
mod test_log;
#[cfg(test)]
mod test_server;

pub use backend::{BackendClient, BackendError, BackendSetupError};
pub use event::{Address, Event, EventKind, PayloadError, PeekError, Session, User, peek_type};
pub use session_token::{SessionClaims, SessionKeys, SessionVerifier, SessionVerifierError, TokenError};
pub use signing::{DevSigner, SigningError};

use std::time::Duration;

use url::{Host, Url};

/// Whether a text is the public key of session tokens, in any of the forms that it is pasted in.
///
/// # Errors
/// [`SessionVerifierError`] says what it is instead, without repeating it.
pub fn check_public_key(text: &str) -> Result<(), SessionVerifierError> {
    public_key::read(text).map(|_| ())
}

/// Sent with every request: Clerk's edge refuses some clients that don't name themselves.
const USER_AGENT: &str = concat!("usher/", env!("CARGO_PKG_VERSION"));

/// Neither a key set nor a user comes near this; more is not read into memory.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// A client for Clerk's addresses. Redirects are not followed: they would carry trust, and the secret key, elsewhere.
fn http_client(time_limit: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(time_limit)
        .build()
}

/// Reads a body of at most [`MAX_BODY_BYTES`]; the error is a reason for a log line, without address or content.
async fn read_body(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(format!("the answer is larger than {MAX_BODY_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A transport error in words that name neither address nor content.
fn describe(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "could not connect"
    } else {
        "the connection broke"
    };
    what.to_owned()
}

/// Whether keys fetched from, or secrets sent to, this address are safe from whoever sits on the way.
pub fn is_https_or_loopback(url: &Url) -> bool {
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Domain(name))) => name == "localhost",
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::test_server::{Answer, TestServer};
    use super::*;

    #[test]
    fn a_public_key_is_told_from_what_is_none() {
        let signer = DevSigner::generate().unwrap();
        assert!(check_public_key(&signer.public_pem().unwrap()).is_ok());
        assert!(check_public_key("sk_test_secret").is_err());
    }

    #[tokio::test]
    async fn of_an_answer_no_more_than_a_mebibyte_is_read() {
        let most = 1024 * 1024;
        for (size, expected) in [
            (most, Ok(most)),
            (most + 1, Err("the answer is larger than 1048576 bytes".to_owned())),
        ] {
            let server = TestServer::start(Answer::Body(200, "x".repeat(size))).await;
            let http = http_client(Duration::from_secs(60)).unwrap();
            let response = http.get(server.url.clone()).send().await.unwrap();
            assert_eq!(read_body(response).await.map(|body| body.len()), expected);
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for (url, safe) in [
            ("https://api.clerk.com", true),
            ("http://localhost:3000", true),
            ("http://127.0.0.1:9", true),
            ("http://[::1]:9", true),
            ("http://api.clerk.com", false),
            ("http://localhost.example.com", false),
            ("http://10.0.0.1", false),
            ("ftp://localhost", false),
            ("data:text/plain,x", false),
        ] {
            assert_eq!(is_https_or_loopback(&Url::parse(url).unwrap()), safe, "{url}");
        }
    }
}
