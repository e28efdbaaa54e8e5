//! Whether an address of Clerk's answers at all, and what time it is there: for `usher check`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::DATE;
use serde_json::Value;
use url::Url;

use super::{describe, http_client, read_body};

/// How long an answer may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// What an address answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The HTTP status.
    pub status: u16,
    /// The server's clock, by its `Date` header.
    pub date: Option<DateTime<Utc>>,
    /// How many keys are in the answer, if it is a key set.
    pub keys: Option<usize>,
}

/// Where an issuer has its keys.
#[must_use]
pub fn key_set_of(issuer: &Url) -> Option<Url> {
    let address = format!("{}/.well-known/jwks.json", issuer.as_str().trim_end_matches('/'));
    Url::parse(&address).ok()
}

/// Asks once.
///
/// # Errors
/// What went wrong, in words that name no address.
pub async fn probe(url: Url) -> Result<Probe, String> {
    let http = http_client(TIME_LIMIT).map_err(|error| error.to_string())?;
    let response = http.get(url).send().await.map_err(|error| describe(&error))?;
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    let status = response.status().as_u16();
    let body = read_body(response).await?;
    let keys = serde_json::from_slice::<Value>(&body).ok();
    Ok(Probe {
        status,
        date: date.map(|date| date.to_utc()),
        keys: keys.and_then(|set| Some(set["keys"].as_array()?.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::super::test_server::{Answer, TestServer};
    use super::*;

    #[tokio::test]
    async fn a_key_set_is_found_and_its_keys_are_counted() {
        let server = TestServer::start(Answer::Body(200, r#"{"keys":[{},{}]}"#.to_owned())).await;
        let found = probe(key_set_of(&server.url).unwrap()).await;
        assert_eq!(
            found,
            Ok(Probe {
                status: 200,
                date: None,
                keys: Some(2)
            })
        );
        assert!(server.requests()[0].starts_with("GET /.well-known/jwks.json HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn what_is_no_key_set_is_told_by_its_status() {
        let server = TestServer::start(Answer::Body(404, "<html>".to_owned())).await;
        let found = probe(server.url.clone()).await.unwrap();
        assert_eq!((found.status, found.keys), (404, None));
    }
}
