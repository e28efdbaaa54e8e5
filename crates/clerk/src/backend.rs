//! Clerk's Backend API: asking for a user whose webhook has not come.
//!
//! Called while somebody waits for a page, so it gives up early: a short time limit, a breaker that stops asking a Clerk
//! that is down, and a small cache, so that a page that is loaded again asks once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use tokio::time::Instant;
use url::Url;

use super::event::User;
use super::{describe, http_client, is_https_or_loopback, read_body};

/// How long a call may take.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// How long a user is remembered.
const USER_LIFETIME: Duration = Duration::from_secs(30);

/// How long the absence of a user is remembered: shorter, because who just signed up may appear any moment.
const ABSENCE_LIFETIME: Duration = Duration::from_secs(5);

/// How many users are remembered.
const CACHE_ENTRIES: usize = 1_000;

/// So many failures in a row open the breaker.
const BREAKER_FAILURES: u32 = 5;

/// How long an open breaker lets nobody through.
const BREAKER_PAUSE: Duration = Duration::from_secs(30);

/// Longer ids than this are not Clerk's.
const MAX_ID_BYTES: usize = 64;

/// Why a client can't be made. The text never includes the key.
#[derive(Debug, thiserror::Error)]
pub enum BackendSetupError {
    /// The secret key would travel in the open.
    #[error("the address of Clerk's API must be https, without query or fragment")]
    ApiUrl,
    /// The secret key is empty or holds characters that no header may.
    #[error("the secret key is empty or holds characters that no key has")]
    SecretKey,
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be set up")]
    HttpClient(#[source] reqwest::Error),
}

/// Why Clerk gave no answer about a user. The text includes neither the key nor anything of the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Not an id that Clerk could have made; nothing was sent.
    #[error("not a Clerk user id")]
    InvalidId,
    /// Clerk can't be reached, is overloaded or fails: it may work later.
    #[error("Clerk's API is unavailable: {0}")]
    Unavailable(String),
    /// Clerk doesn't take the secret key: somebody must correct the configuration.
    #[error("Clerk's API refuses the secret key")]
    Refused,
    /// Clerk answered something that can't be understood.
    #[error("Clerk's API gave an unexpected answer: {0}")]
    Unexpected(String),
}

/// Asks Clerk's Backend API. Share one per process: the cache and the breaker are inside.
#[derive(Debug)]
pub struct BackendClient {
    http: reqwest::Client,
    users_url: Url,
    /// Marked sensitive, which keeps it out of `Debug` output.
    authorization: HeaderValue,
    cache: Cache,
    breaker: Breaker,
}

impl BackendClient {
    /// A client for `{api_url}/v1/…`, e.g. `https://api.clerk.com`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// See [`BackendSetupError`].
    pub fn new(api_url: &Url, secret_key: &str) -> Result<BackendClient, BackendSetupError> {
        let plain = api_url.query().is_none() && api_url.fragment().is_none();
        if !plain || !is_https_or_loopback(api_url) {
            return Err(BackendSetupError::ApiUrl);
        }
        let users_url = format!("{}/v1/users/", api_url.as_str().trim_end_matches('/'));
        let secret_key = secret_key.trim();
        if secret_key.is_empty() {
            return Err(BackendSetupError::SecretKey);
        }
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {secret_key}")).map_err(|_| BackendSetupError::SecretKey)?;
        authorization.set_sensitive(true);
        Ok(BackendClient {
            http: http_client(TIME_LIMIT).map_err(BackendSetupError::HttpClient)?,
            users_url: Url::parse(&users_url).map_err(|_| BackendSetupError::ApiUrl)?,
            authorization,
            cache: Cache::default(),
            breaker: Breaker::default(),
        })
    }

    /// The user of this id, at most 30 seconds old; `None` if Clerk knows no such user.
    ///
    /// # Errors
    ///
    /// See [`BackendError`]; it comes within two seconds, and at once while Clerk is known to be down.
    pub async fn user(&self, clerk_user_id: &str) -> Result<Option<User>, BackendError> {
        // Before it becomes a part of a path: `../` and the like are not ids.
        if !is_clerk_id(clerk_user_id) {
            return Err(BackendError::InvalidId);
        }
        if let Some(answer) = self.cache.get(clerk_user_id) {
            return Ok(answer);
        }
        let Some(permit) = self.breaker.admit() else {
            return Err(BackendError::Unavailable(
                "it failed repeatedly and is left alone for a while".to_owned(),
            ));
        };
        let result = self.fetch(clerk_user_id).await;
        permit.settle(!matches!(result, Err(BackendError::Unavailable(_))));
        if let Ok(answer) = &result {
            self.cache.put(clerk_user_id, answer.clone());
        }
        result
    }

    async fn fetch(&self, clerk_user_id: &str) -> Result<Option<User>, BackendError> {
        let url = self
            .users_url
            .join(clerk_user_id)
            .map_err(|_| BackendError::InvalidId)?;
        let response = self
            .http
            .get(url)
            .header(AUTHORIZATION, self.authorization.clone())
            .send()
            .await
            .map_err(|error| BackendError::Unavailable(describe(&error)))?;
        let status = response.status();
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(BackendError::Refused),
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(BackendError::Unavailable(format!("status {}", status.as_u16())));
            }
            _ => {
                return Err(BackendError::Unexpected(format!("status {}", status.as_u16())));
            }
        }
        let body = read_body(response).await.map_err(BackendError::Unavailable)?;
        let user = User::from_json(&body).map_err(|error| BackendError::Unexpected(error.to_string()))?;
        if user.clerk_user_id != clerk_user_id {
            return Err(BackendError::Unexpected("another user".to_owned()));
        }
        Ok(Some(user))
    }
}

fn is_clerk_id(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What Clerk answered a moment ago; failures are not kept.
#[derive(Default)]
struct Cache {
    entries: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    answer: Option<User>,
    good_until: Instant,
}

/// Without the users.
impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
    fn get(&self, id: &str) -> Option<Option<User>> {
        let entries = self.lock();
        let entry = entries.get(id)?;
        (Instant::now() < entry.good_until).then(|| entry.answer.clone())
    }

    fn put(&self, id: &str, answer: Option<User>) {
        let now = Instant::now();
        let lifetime = match answer {
            Some(_) => USER_LIFETIME,
            None => ABSENCE_LIFETIME,
        };
        let mut entries = self.lock();
        if entries.len() >= CACHE_ENTRIES && !entries.contains_key(id) {
            make_room(&mut entries, now);
        }
        let entry = Entry {
            answer,
            good_until: now + lifetime,
        };
        entries.insert(id.to_owned(), entry);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Walks all entries, but only when they are many, and after a call over the network.
fn make_room(entries: &mut HashMap<String, Entry>, now: Instant) {
    entries.retain(|_, entry| now < entry.good_until);
    if entries.len() < CACHE_ENTRIES {
        return;
    }
    let first_to_expire = entries
        .iter()
        .min_by_key(|(_, entry)| entry.good_until)
        .map(|(id, _)| id.clone());
    if let Some(id) = first_to_expire {
        entries.remove(&id);
    }
}

/// Closed: all pass. Open: nobody. After a pause one probe passes, and its outcome closes the breaker or opens it again.
#[derive(Debug)]
struct Breaker {
    state: Mutex<BreakerState>,
}

#[derive(Debug, Clone, Copy)]
enum BreakerState {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker {
            state: Mutex::new(BreakerState::Closed { failures: 0 }),
        }
    }
}

impl Breaker {
    /// Leave for one call, if calls are allowed; to be settled with its outcome.
    fn admit(&self) -> Option<Permit<'_>> {
        let mut state = self.lock();
        let probe = match *state {
            BreakerState::Closed { .. } => false,
            BreakerState::Open { until } if Instant::now() >= until => {
                *state = BreakerState::Probing;
                true
            }
            BreakerState::Open { .. } | BreakerState::Probing => return None,
        };
        Some(Permit {
            breaker: self,
            probe,
            settled: false,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
    settled: bool,
}

impl Permit<'_> {
    fn settle(mut self, success: bool) {
        self.settled = true;
        let mut state = self.breaker.lock();
        let failures = match *state {
            BreakerState::Closed { failures } => failures + 1,
            BreakerState::Probing if self.probe => BREAKER_FAILURES,
            // A call from before the breaker opened tells nothing new.
            BreakerState::Open { .. } | BreakerState::Probing => return,
        };
        *state = if success {
            BreakerState::Closed { failures: 0 }
        } else if failures < BREAKER_FAILURES {
            BreakerState::Closed { failures }
        } else {
            tracing::warn!(
                pause_seconds = BREAKER_PAUSE.as_secs(),
                "Clerk's API fails repeatedly: not asking it for {} s",
                BREAKER_PAUSE.as_secs()
            );
            BreakerState::Open {
                until: Instant::now() + BREAKER_PAUSE,
            }
        };
    }
}

/// A caller who hangs up takes the probe along; the next one is let through in its place.
impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe && !self.settled {
            *self.breaker.lock() = BreakerState::Open { until: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::test_server::{Answer, TestServer, skip};
    use super::*;

    const SECRET: &str = "sk_test_very_secret";

    fn json_user(id: &str) -> Value {
        json!({
            "id": id, "object": "user", "username": null, "first_name": "Ada", "last_name": "Lovelace",
            "image_url": "https://img.clerk.com/ada", "primary_email_address_id": "idn_1",
            "email_addresses": [{
                "id": "idn_1", "object": "email_address", "email_address": "ada@example.com",
                "verification": {"status": "verified", "strategy": "email_code", "attempts": null, "expire_at": null},
                "linked_to": [],
            }],
            "banned": false, "locked": false, "created_at": 1_790_000_000_000_i64,
            "updated_at": 1_790_000_000_000_i64,
        })
    }

    fn user(id: &str) -> Answer {
        Answer::Body(200, json_user(id).to_string())
    }

    fn status(status: u16) -> Answer {
        Answer::Body(status, r#"{"errors":[{"code":"x"}]}"#.into())
    }

    fn client(server: &TestServer) -> BackendClient {
        BackendClient::new(&server.url, SECRET).unwrap()
    }

    fn unavailable<T: std::fmt::Debug>(result: &Result<T, BackendError>) -> bool {
        matches!(result, Err(BackendError::Unavailable(_)))
    }

    #[tokio::test]
    async fn a_user_is_asked_for_with_the_secret_key() {
        let server = TestServer::start(user("user_ada")).await;
        let found = client(&server).user("user_ada").await.unwrap().unwrap();
        assert_eq!(found.primary_email(), Some("ada@example.com"));
        let request = server.requests().remove(0);
        assert!(request.starts_with("GET /v1/users/user_ada HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nauthorization: Bearer sk_test_very_secret\r\n"));
        assert!(request.contains("\r\nuser-agent: usher/"));
    }

    #[tokio::test]
    async fn the_address_may_have_a_path() {
        let server = TestServer::start(user("user_ada")).await;
        for base in ["proxy", "proxy/"] {
            let url = server.url.join(base).unwrap();
            let client = BackendClient::new(&url, SECRET).unwrap();
            client.user("user_ada").await.unwrap();
            assert!(
                server
                    .requests()
                    .pop()
                    .unwrap()
                    .starts_with("GET /proxy/v1/users/user_ada ")
            );
        }
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let unexpected = |reason: &str| Err(BackendError::Unexpected(reason.to_owned()));
        let down = |reason: &str| Err(BackendError::Unavailable(reason.to_owned()));
        for (answer, expected) in [
            (status(404), Ok(None)),
            (status(401), Err(BackendError::Refused)),
            (status(403), Err(BackendError::Refused)),
            (status(429), down("status 429")),
            (status(500), down("status 500")),
            (status(503), down("status 503")),
            (status(400), unexpected("status 400")),
            (status(204), unexpected("status 204")),
            (Answer::Redirect("/v1/users/user_eve"), unexpected("status 302")),
            (user("user_eve"), unexpected("another user")),
            (
                Answer::Body(200, "<html>ada@example.com".into()),
                unexpected("not JSON at line 1, column 1"),
            ),
            (
                Answer::Body(200, json!({"data": json_user("user_ada")}).to_string()),
                unexpected("user.email_addresses is missing"),
            ),
        ] {
            let server = TestServer::start(answer).await;
            assert_eq!(client(&server).user("user_ada").await, expected);
            assert_eq!(server.hits(), 1);
        }
    }

    #[tokio::test]
    async fn an_unreachable_clerk_is_unavailable() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", port.local_addr().unwrap())).unwrap();
        drop(port);
        let client = BackendClient::new(&url, SECRET).unwrap();
        assert_eq!(
            client.user("user_ada").await,
            Err(BackendError::Unavailable("could not connect".into()))
        );
    }

    #[tokio::test]
    async fn a_silent_clerk_is_given_two_seconds() {
        let server = TestServer::start(Answer::Silence).await;
        let client = client(&server);
        let start = Instant::now();
        // The paused clock jumps to the time limit once nothing else can happen.
        tokio::time::pause();
        assert_eq!(
            client.user("user_ada").await,
            Err(BackendError::Unavailable("timed out".into()))
        );
        let taken = start.elapsed();
        assert!(taken >= TIME_LIMIT && taken < TIME_LIMIT * 2, "{taken:?}");
    }

    #[tokio::test]
    async fn what_is_no_id_is_never_sent() {
        let server = TestServer::start(user("user_ada")).await;
        let client = client(&server);
        let longest = "u".repeat(64);
        for id in [
            "",
            "../organizations",
            "user_ada/ban",
            "user_ada?x=1",
            "user ada",
            "user-ada",
            "user_adä",
            "user_ada\r\n",
            ".",
            &format!("{longest}u"),
        ] {
            assert_eq!(client.user(id).await, Err(BackendError::InvalidId), "{id:?}");
        }
        assert_eq!(server.hits(), 0);
        assert!(client.user(&longest).await.is_err());
        assert_eq!(server.hits(), 1);
    }

    #[tokio::test]
    async fn a_user_is_remembered_for_half_a_minute() {
        let server = TestServer::start(user("user_ada")).await;
        let client = client(&server);
        for _ in 0..3 {
            assert!(client.user("user_ada").await.unwrap().is_some());
        }
        assert_eq!(server.hits(), 1);
        skip(USER_LIFETIME).await;
        assert!(client.user("user_ada").await.unwrap().is_some());
        assert_eq!(server.hits(), 2);
    }

    #[tokio::test]
    async fn absence_is_remembered_for_five_seconds_and_failure_not_at_all() {
        let server = TestServer::start(status(404)).await;
        let client = client(&server);
        for _ in 0..3 {
            assert_eq!(client.user("user_ada").await, Ok(None));
        }
        assert_eq!(server.hits(), 1);

        server.now_answers(status(500));
        skip(ABSENCE_LIFETIME).await;
        assert!(unavailable(&client.user("user_ada").await));
        server.now_answers(user("user_ada"));
        assert!(client.user("user_ada").await.unwrap().is_some());
        assert_eq!(server.hits(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_stays_small() {
        let cache = Cache::default();
        let ada = User::from_json(json_user("user_ada").to_string().as_bytes()).unwrap();
        for index in 0..CACHE_ENTRIES {
            cache.put(&format!("user_{index}"), Some(ada.clone()));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        cache.put("user_999", Some(ada.clone()));
        assert!(cache.get("user_0").is_some(), "no room was needed");
        cache.put("user_new", Some(ada.clone()));
        assert_eq!(cache.lock().len(), CACHE_ENTRIES);
        assert!(cache.get("user_0").is_none(), "the oldest made room");
        assert!(cache.get("user_1").is_some() && cache.get("user_new").is_some());

        tokio::time::advance(USER_LIFETIME).await;
        cache.put("user_later", Some(ada));
        assert_eq!(cache.lock().len(), 1, "what has expired goes first");
    }

    #[tokio::test]
    async fn five_failures_in_a_row_open_the_breaker_and_a_probe_closes_it() {
        let server = TestServer::start(status(503)).await;
        let client = client(&server);
        for expected in [1, 2, 3, 4, 5, 5, 5] {
            assert!(unavailable(&client.user("user_ada").await));
            assert_eq!(server.hits(), expected);
        }

        skip(BREAKER_PAUSE).await;
        for _ in 0..3 {
            assert!(unavailable(&client.user("user_ada").await));
            assert_eq!(server.hits(), 6, "one probe, which failed");
        }

        server.now_answers(user("user_ada"));
        skip(BREAKER_PAUSE).await;
        assert!(client.user("user_ada").await.unwrap().is_some());
        server.now_answers(status(404));
        assert_eq!(client.user("user_eve").await, Ok(None));
        assert_eq!(server.hits(), 8);
    }

    #[tokio::test]
    async fn any_answer_ends_a_row_of_failures() {
        let server = TestServer::start(status(500)).await;
        let client = client(&server);
        for answer in [status(404), status(401), status(400)] {
            server.now_answers(status(500));
            for _ in 0..4 {
                assert!(unavailable(&client.user("user_ada").await));
            }
            server.now_answers(answer);
            assert!(!unavailable(&client.user("user_ada").await));
            skip(ABSENCE_LIFETIME).await;
        }
        assert_eq!(server.hits(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_probes_and_a_probe_given_up_is_replaced() {
        let breaker = Breaker::default();
        let early = breaker.admit().unwrap();
        for _ in 0..BREAKER_FAILURES {
            breaker.admit().unwrap().settle(false);
        }
        assert!(breaker.admit().is_none());
        early.settle(true);
        assert!(breaker.admit().is_none(), "a late answer changes nothing");

        tokio::time::advance(BREAKER_PAUSE).await;
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_none());
        drop(probe);
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_none());
        probe.settle(false);
        assert!(breaker.admit().is_none());

        tokio::time::advance(BREAKER_PAUSE).await;
        breaker.admit().unwrap().settle(true);
        for _ in 0..BREAKER_FAILURES - 1 {
            breaker.admit().unwrap().settle(false);
        }
        assert!(breaker.admit().is_some(), "counting began anew");
    }

    #[test]
    fn a_client_that_would_leak_or_lack_its_key_is_not_made() {
        let url = |url: &str| Url::parse(url).unwrap();
        for bad in [
            "http://api.clerk.com",
            "https://api.clerk.com/?x",
            "https://api.clerk.com/#x",
            "file:///x",
        ] {
            assert!(matches!(
                BackendClient::new(&url(bad), SECRET),
                Err(BackendSetupError::ApiUrl)
            ));
        }
        for bad in ["", "  ", "sk\r\nx: y", "sk\0"] {
            let error = BackendClient::new(&url("https://api.clerk.com"), bad).unwrap_err();
            assert!(matches!(error, BackendSetupError::SecretKey));
        }
    }

    #[tokio::test]
    async fn debug_output_holds_neither_key_nor_user() {
        let server = TestServer::start(user("user_ada")).await;
        let client = client(&server);
        client.user("user_ada").await.unwrap();
        let debug = format!("{client:?}");
        assert!(
            !debug.contains(SECRET) && !debug.contains("Lovelace") && !debug.contains("ada@"),
            "{debug}"
        );
    }
}
