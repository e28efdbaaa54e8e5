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
mod tests;
