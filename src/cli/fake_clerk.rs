//! How `usher simulate` and `usher demo` send events in Clerk's place.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use serde_json::Value;
use url::{Host, Url};

use crate::clock::Clock;
pub(super) use crate::ui::fake_clerk::{session_id, user_id};
use usher_testkit::fake_clerk::Webhook;

/// A signing secret that nobody has configured.
pub(super) const WRONG_SECRET: &str = "whsec_Zm9yZ2VkIGZvcmdlZCBmb3JnZWQhISEh";
/// As long as Svix waits for an answer.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// A fresh message id.
pub(super) fn message_id(clock: &Clock) -> String {
    format!("msg_{}", clock.new_id().simple())
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

/// A signed event and where it goes.
pub(super) struct Delivery {
    /// Where it goes.
    pub url: Url,
    /// What is sent.
    pub webhook: Webhook,
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
        let webhook = Webhook::sign(secret, svix_id, now.timestamp(), event.to_string());
        Ok(Self {
            url,
            webhook: webhook.context("the event can't be signed")?,
        })
    }

    /// Sends it, and reads the answer.
    pub(super) async fn send(&self, http: &reqwest::Client) -> reqwest::Result<(StatusCode, String)> {
        let mut request = http.post(self.url.clone()).body(self.webhook.body.clone());
        for (name, value) in self.webhook.headers() {
            request = request.header(name, value);
        }
        let response = request.send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// The command that sends it. Its signature is good for five minutes.
    pub(super) fn as_curl(&self) -> String {
        let headers: String = self
            .webhook
            .headers()
            .iter()
            .map(|(name, value)| format!("  -H {} \\\n", quoted(&format!("{name}: {value}"))))
            .collect();
        let body = String::from_utf8_lossy(&self.webhook.body);
        let (url, body) = (quoted(self.url.as_str()), quoted(&body));
        format!("curl -i {url} \\\n{headers}  --data-binary {body}")
    }
}

/// A text as one word of a shell's command.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
