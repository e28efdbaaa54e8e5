//! Authentication: the app by its API key, a person by Clerk's session token.

use std::collections::HashSet;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Api;
use super::limits::StatusCell;
use crate::api_key::{self, ApiKey};
use crate::cookies::cookies;
use crate::problem::{Code, Problem};
use crate::store::Store;
use usher_clerk::{SessionClaims, SessionVerifier, TokenError};

/// Clerk's session cookie. Newer ones add `_` and a suffix that identifies the instance.
const SESSION_COOKIE: &str = "__session";
/// Cookies that are tried: another app on the same domain may have its own. Each costs one signature check.
const MAX_COOKIES: usize = 8;

/// The app, authenticated by its key.
pub(super) struct AppClient {
    key: ApiKey,
    cell: StatusCell,
}

impl AppClient {
    /// Whether the key may see and change this organization and everything in it. What it may not use must look as if it
    /// did not exist.
    pub(super) fn may_use(&self, organization_id: Uuid) -> bool {
        self.key.may_use(organization_id)
    }

    /// 404 unless [`AppClient::may_use`].
    pub(super) fn must_use(&self, organization_id: Uuid) -> Result<(), Problem> {
        if self.may_use(organization_id) {
            Ok(())
        } else {
            Err(Problem::not_found())
        }
    }

    /// The organizations that the key is limited to, if it is.
    pub(super) fn organizations(&self) -> Option<&HashSet<Uuid>> {
        self.key.organizations.as_ref()
    }

    /// The store. All requests of one key share a limited part of it; `weight` is how much this one takes.
    pub(super) fn store(&self, api: &Api, weight: u32) -> Store {
        api.app.store.with_share(api.limits.share(self.name()), weight)
    }

    /// Counts a batch against the rate limit.
    pub(super) fn pay_for(&self, api: &Api, field: &str, items: usize) -> Result<(), Problem> {
        api.limits.batch(self.name(), field, items, &self.cell)
    }

    pub(super) fn name(&self) -> &str {
        &self.key.name
    }
}

impl FromRequestParts<Api> for AppClient {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        match bearer(&parts.headers).and_then(|key| api_key::find(&api.app.config.api_keys, key)) {
            Some(key) => {
                api.limits.key(parts, &key.name)?;
                let cell = parts.extensions.get().cloned().unwrap_or_default();
                Ok(Self { key: key.clone(), cell })
            }
            None => Err(api.stranger(parts, "Send one of USHER_API_KEYS as `Authorization: Bearer …`.")),
        }
    }
}

/// A signed-in person.
pub(super) struct SignedIn {
    pub clerk_user_id: String,
    impersonated: bool,
}

impl SignedIn {
    /// Whoever acts as somebody else may look, but not decide for them.
    pub(super) fn decides(&self) -> Result<(), Problem> {
        if self.impersonated {
            return Err(Code::Impersonated.into());
        }
        Ok(())
    }
}

impl FromRequestParts<Api> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let verifier = api.app.sessions.as_ref().ok_or_else(|| {
            Problem::new(Code::Unauthorized)
                .with_detail("Neither CLERK_JWT_KEY nor CLERK_ISSUER is set, so session tokens can't be verified.")
        })?;
        let tokens = session_tokens(parts, api)?;
        let claims = first_good(verifier, &tokens, api.app.clock.now()).await;
        let claims = claims.map_err(|error| match error {
            TokenError::KeysUnavailable => Code::KeysUnavailable.into(),
            _ => api.stranger(
                parts,
                "The session token is missing, expired or not Clerk's. Sign in again.",
            ),
        })?;
        api.limits.person(parts, &claims.clerk_user_id)?;
        Ok(Self {
            clerk_user_id: claims.clerk_user_id,
            impersonated: claims.impersonated,
        })
    }
}

impl Api {
    /// The answer to whoever does not say who they are: 401, until their address has failed too often.
    fn stranger(&self, parts: &Parts, detail: &'static str) -> Problem {
        match self.limits.address(&parts.headers, &parts.extensions) {
            Ok(()) => Problem::new(Code::Unauthorized).with_detail(detail),
            Err(problem) => problem,
        }
    }
}

/// The first token that is good. Where none is, the error of the last, unless one of them may be good after all.
async fn first_good(
    verifier: &SessionVerifier,
    tokens: &[&str],
    now: DateTime<Utc>,
) -> Result<SessionClaims, TokenError> {
    let mut refused = TokenError::Malformed;
    for token in tokens {
        match verifier.verify(token, now).await {
            Ok(claims) => return Ok(claims),
            Err(_) if refused == TokenError::KeysUnavailable => {}
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// From the header, or else from cookies. A browser sends cookies with requests of any page (CSRF), so a request with a
/// cookie that changes something must come from a page of the app.
fn session_tokens<'a>(parts: &'a Parts, api: &Api) -> Result<Vec<&'a str>, Problem> {
    if let Some(token) = bearer(&parts.headers) {
        return Ok(vec![token]);
    }
    let tokens: Vec<&str> = session_cookies(&parts.headers).take(MAX_COOKIES).collect();
    if tokens.is_empty() {
        return Err(api.stranger(parts, "Send Clerk's session token as `Authorization: Bearer …`."));
    }
    let origins = &api.app.config.page_origins;
    let origin = parts
        .headers
        .get(header::ORIGIN)
        .and_then(|origin| origin.to_str().ok());
    let is_safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if is_safe || origin.is_some_and(|origin| origins.iter().any(|allowed| allowed == origin)) {
        Ok(tokens)
    } else {
        Err(Problem::new(Code::ForeignOrigin)
            .with_detail("Add its origin to CLERK_AUTHORIZED_PARTIES, or send the token in the Authorization header."))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

/// The values of Clerk's session cookies, in order: all of one name, which axum-extra's `CookieJar` would make one of.
fn session_cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    cookies(headers)
        .filter(|(name, _)| is_session(name))
        .map(|(_, value)| value)
        // A JWT has three parts; nothing else needs a signature check.
        .filter(|value| value.split('.').count() == 3)
}

fn is_session(name: &str) -> bool {
    let suffix = name.strip_prefix(SESSION_COOKIE);
    suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('_'))
}
