//! Clerk's stand-in, for `usher simulate` and `usher demo`: signs events as Svix does and session tokens as Clerk does.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::{Host, Url};

use crate::clock::Clock;
use crate::invites::email::EmailAddress;
use crate::webhooks::sign;
use usher_clerk::DevSigner;

/// A signing secret that nobody has configured.
pub(super) const WRONG_SECRET: &str = "whsec_Zm9yZ2VkIGZvcmdlZCBmb3JnZWQhISEh";
/// As long as Svix waits for an answer.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// A fresh message id.
pub(super) fn message_id(clock: &Clock) -> String {
    format!("msg_{}", clock.new_id().simple())
}

/// The Clerk user who owns this address, here: always the same one for one address, however it is written.
pub(super) fn user_id(email: &str) -> String {
    let key = EmailAddress::parse(email).map_or_else(|_| email.to_owned(), |email| email.key().as_str().to_owned());
    format!("user_{}", digest(&key))
}

/// The one session that a user has, here.
pub(super) fn session_id(user_id: &str) -> String {
    format!("sess_{}", digest(user_id))
}

/// As long as the random part of Clerk's ids, about.
fn digest(text: &str) -> String {
    let bytes = Sha256::digest(text);
    bytes.iter().take(13).map(|byte| format!("{byte:02x}")).collect()
}

/// A client for `url`. On this machine nothing of the machine is needed: no proxy, and no certificates for plain HTTP.
pub(super) fn http_client(url: &Url) -> anyhow::Result<reqwest::Client> {
    let mut client = reqwest::Client::builder()
        .timeout(TIME_LIMIT)
        .redirect(reqwest::redirect::Policy::none());
    if is_loopback(url) {
        client = client.no_proxy();
    }
    if url.scheme() == "http" {
        client = client.tls_certs_only([]);
    }
    client.build().context("no HTTP client could be made")
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An event, signed and addressed.
pub(super) struct Delivery {
    /// Where it goes.
    pub url: Url,
    /// The message id: the same over repetitions.
    pub svix_id: String,
    timestamp: i64,
    signature: String,
    body: String,
}

impl Delivery {
    /// Signs `event` with `secret`.
    pub(super) fn sign(
        url: Url,
        secret: &str,
        svix_id: String,
        event: &Value,
        now: DateTime<Utc>,
    ) -> anyhow::Result<Self> {
        let body = event.to_string();
        let timestamp = now.timestamp();
        let signature = sign(secret, &svix_id, timestamp, body.as_bytes()).context("the event can't be signed")?;
        Ok(Self {
            url,
            svix_id,
            timestamp,
            signature,
            body,
        })
    }

    fn headers(&self) -> [(&'static str, String); 4] {
        [
            ("content-type", "application/json".to_owned()),
            ("svix-id", self.svix_id.clone()),
            ("svix-timestamp", self.timestamp.to_string()),
            ("svix-signature", self.signature.clone()),
        ]
    }

    /// Sends it, and reads the answer.
    pub(super) async fn send(&self, http: &reqwest::Client) -> reqwest::Result<(StatusCode, String)> {
        let mut request = http.post(self.url.clone()).body(self.body.clone());
        for (name, value) in self.headers() {
            request = request.header(name, value);
        }
        let response = request.send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// The command that sends it. Its signature is good for five minutes.
    pub(super) fn as_curl(&self) -> String {
        let headers: String = self
            .headers()
            .iter()
            .map(|(name, value)| format!("  -H {} \\\n", quoted(&format!("{name}: {value}"))))
            .collect();
        let (url, body) = (quoted(self.url.as_str()), quoted(&self.body));
        format!("curl -i {url} \\\n{headers}  --data-binary {body}")
    }
}

/// A text as one word of a shell's command.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Who signs in with a session token.
pub(super) struct SignIn<'a> {
    /// Their Clerk user id.
    pub user_id: &'a str,
    /// The session.
    pub session_id: &'a str,
    /// The tokens' issuer.
    pub issuer: &'a str,
    /// The app's origin, where usher insists on one.
    pub party: Option<&'a str>,
}

impl SignIn<'_> {
    /// A session token with the claims that Clerk's have.
    pub(super) fn token(&self, signer: &DevSigner, now: DateTime<Utc>, lifetime: TimeDelta) -> anyhow::Result<String> {
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
        signer
            .sign_session(&claims)
            .context("the session token can't be signed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_one_user_however_it_is_written() {
        assert_eq!(user_id("ada@example.com"), user_id(" Ada@EXAMPLE.com"));
        assert_ne!(user_id("ada@example.com"), user_id("ad.a@example.com"));
        assert_ne!(user_id("not an address"), user_id("nor this"));
        assert_eq!(user_id("ada@example.com").len(), "user_".len() + 26);
    }

    #[test]
    fn a_curl_command_survives_quotes() {
        let event = json!({"type": "user.created", "name": "O'Brien"});
        let url = Url::parse("http://127.0.0.1:8080/webhooks/clerk").unwrap();
        let delivery = Delivery::sign(url, WRONG_SECRET, "msg_1".to_owned(), &event, DateTime::UNIX_EPOCH).unwrap();
        let curl = delivery.as_curl();
        assert!(curl.contains(r#""name":"O'\''Brien""#), "{curl}");
        assert!(curl.contains("-H 'svix-signature: v1,"), "{curl}");
    }
}
