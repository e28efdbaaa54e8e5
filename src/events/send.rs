//! One request to an endpoint, signed as Standard Webhooks says.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use svix::webhooks::Webhook;
use url::Url;
use uuid::Uuid;

use super::event_id;
use crate::secret::Secret;

/// How long an endpoint may take to answer.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// How long the rest of an answer is read, so that its connection can be used again.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// How much of an answer is read for that.
const MAX_DRAINED: usize = 64 * 1024;
/// How many bytes of an answer are kept.
const MAX_SHOWN: usize = 200;
const USER_AGENT: &str = concat!("usher/", env!("CARGO_PKG_VERSION"));

/// What an endpoint answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 2xx.
    Accepted,
    /// 410: it wants no events.
    Gone,
    /// Anything else, or nothing.
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status, or why there is none. Without anything that the endpoint sent.
    pub reason: String,
    /// The first bytes of what it sent.
    pub shown: String,
    /// How long it asks to wait.
    pub retry_after: Option<TimeDelta>,
}

/// Sends events. Share one per process: it keeps connections.
pub struct Sender {
    http: Client,
    keys: Vec<Webhook>,
}

impl Sender {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// When a secret can't be used, or the HTTP client can't be set up.
    pub fn new(secrets: &[Secret]) -> anyhow::Result<Self> {
        let keys = secrets.iter().map(|secret| Webhook::new(secret.expose()));
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            http: Client::builder()
                .user_agent(USER_AGENT)
                .redirect(reqwest::redirect::Policy::none())
                .build()?,
        })
    }

    /// Sends one event. `webhook-id` is the same over all tries, the timestamp is the try's.
    pub async fn send(&self, url: &Url, id: Uuid, body: &str, now: DateTime<Utc>) -> Answer {
        let Some(signatures) = self.signatures(&event_id(id), now, body) else {
            return refused("it could not be signed".to_owned());
        };
        let request = self
            .http
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", event_id(id))
            .header("webhook-timestamp", now.timestamp())
            .header("webhook-signature", signatures)
            .body(body.to_owned());
        match tokio::time::timeout(TIME_LIMIT, request.send()).await {
            Ok(Ok(response)) => read(response, now).await,
            Ok(Err(error)) => refused(describe(&error).to_owned()),
            Err(_) => refused(format!("no answer within {} s", TIME_LIMIT.as_secs())),
        }
    }

    /// One signature per secret.
    fn signatures(&self, id: &str, now: DateTime<Utc>, body: &str) -> Option<String> {
        let sign = |key: &Webhook| key.sign(id, now.timestamp(), body.as_bytes()).ok();
        let signatures: Vec<String> = self.keys.iter().map(sign).collect::<Option<_>>()?;
        Some(signatures.join(" "))
    }
}

async fn read(mut response: Response, now: DateTime<Utc>) -> Answer {
    let status = response.status();
    let retry_after = retry_after(response.headers(), now);
    let mut shown = Vec::new();
    let drain = async {
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = MAX_SHOWN - shown.len();
            shown.extend_from_slice(&chunk[..chunk.len().min(room)]);
            read += chunk.len();
            if read > MAX_DRAINED {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_LIMIT, drain).await;
    if status.is_success() {
        Answer::Accepted
    } else if status == StatusCode::GONE {
        Answer::Gone
    } else {
        Answer::Refused(Refusal {
            reason: format!("it answered {}", status.as_u16()),
            shown: String::from_utf8_lossy(&shown)
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
            retry_after,
        })
    }
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<TimeDelta> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u32>() {
        Ok(seconds) => Some(TimeDelta::seconds(seconds.into())),
        Err(_) => Some(DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now),
    }
}

fn refused(reason: String) -> Answer {
    Answer::Refused(Refusal {
        reason,
        shown: String::new(),
        retry_after: None,
    })
}

/// A transport error without the address, which may hold a secret.
fn describe(error: &reqwest::Error) -> &'static str {
    if error.is_connect() {
        "could not connect"
    } else {
        "the connection broke before the answer"
    }
}
