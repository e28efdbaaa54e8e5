//! Clerk's Backend API: asking for a user whose webhook has not come.
//!
//! Called while a page waits for the answer, so it gives up early: a short time limit, few calls at once, so that a Clerk
//! that hangs holds up few callers, and a small cache, so that a page that is loaded again asks once.

use std::time::{Duration, Instant};

use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use tokio::sync::Semaphore;
use url::Url;
use usher_base::Throttle;

use super::event::User;
use super::{describe, http_client, is_https_or_loopback, read_body};

/// How long a call may take.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// How long a user is remembered.
const USER_LIFETIME: Duration = Duration::from_secs(30);

/// How long the absence of a user is remembered: shorter, because who just signed up may appear any moment.
const ABSENCE_LIFETIME: Duration = Duration::from_secs(5);

/// How many users are remembered.
const CACHE_ENTRIES: u64 = 1_000;

/// How many calls may wait for Clerk at once. A call of a fifth of a second and 100 calls a second, which is as many as
/// Clerk allows, need no more; a Clerk that hangs never holds up more.
const MAX_CALLS: usize = 20;

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
    /// Clerk can't be reached, is overloaded, fails, or is being asked too much already: it may work later.
    #[error("Clerk's API is unavailable: {0}")]
    Unavailable(String),
    /// Clerk doesn't take the secret key: somebody must correct the configuration.
    #[error("Clerk's API refuses the secret key")]
    Refused,
    /// Clerk answered something that can't be understood.
    #[error("Clerk's API gave an unexpected answer: {0}")]
    Unexpected(String),
}

/// Asks Clerk's Backend API. Share one per process: the cache and the limit of calls are inside.
pub struct BackendClient {
    http: reqwest::Client,
    users_url: Url,
    authorization: HeaderValue,
    /// What Clerk answered a moment ago; failures are not kept.
    cache: Cache<String, Option<User>>,
    calls: Semaphore,
    failures: Throttle,
}

/// Without the users and the key.
impl std::fmt::Debug for BackendClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendClient")
            .field("users_url", &self.users_url.as_str())
            .finish_non_exhaustive()
    }
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
            cache: cache(USER_LIFETIME, ABSENCE_LIFETIME),
            calls: Semaphore::new(MAX_CALLS),
            failures: Throttle::per_minute(),
        })
    }

    /// The user of this id, at most 30 seconds old; `None` if Clerk knows no such user.
    ///
    /// # Errors
    ///
    /// See [`BackendError`]; it comes within two seconds, and at once while too many calls wait for Clerk.
    pub async fn user(&self, clerk_user_id: &str) -> Result<Option<User>, BackendError> {
        // Before it becomes a part of a path: `../` and the like are not ids.
        if !is_clerk_id(clerk_user_id) {
            return Err(BackendError::InvalidId);
        }
        if let Some(answer) = self.cache.get(clerk_user_id) {
            return Ok(answer);
        }
        let result = match self.calls.try_acquire() {
            Ok(_permit) => self.fetch(clerk_user_id).await,
            Err(_) => Err(BackendError::Unavailable(format!(
                "{MAX_CALLS} calls are waiting for it"
            ))),
        };
        match &result {
            Ok(answer) => self.cache.insert(clerk_user_id.to_owned(), answer.clone()),
            Err(error) => self.report(error),
        }
        result
    }

    /// Callers go on without an answer, so this is where operators learn of it.
    fn report(&self, error: &BackendError) {
        if let Some(suppressed) = self.failures.admit() {
            tracing::warn!(suppressed, "could not ask Clerk for a user: {error}");
        }
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

fn cache(user: Duration, absence: Duration) -> Cache<String, Option<User>> {
    Cache::builder()
        .max_capacity(CACHE_ENTRIES)
        // The usual policy may leave out what is new, and a page is loaded again soon after its first time.
        .eviction_policy(EvictionPolicy::lru())
        .expire_after(Lifetime { user, absence })
        .build()
}

/// How long answers are remembered.
struct Lifetime {
    user: Duration,
    absence: Duration,
}

impl Expiry<String, Option<User>> for Lifetime {
    fn expire_after_create(&self, _: &String, answer: &Option<User>, _: Instant) -> Option<Duration> {
        Some(if answer.is_some() { self.user } else { self.absence })
    }
}

#[cfg(test)]
mod tests;
