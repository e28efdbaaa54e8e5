//! Rate limits per key, person and client address. Every answer says how many calls are left, in the headers of
//! draft-ietf-httpapi-ratelimit-headers.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Api;
use crate::app::App;
use crate::fields::FieldError;
use crate::problem::{Code, Problem};
use crate::rate_limit::{Limiter, RateLimit, RateLimitStatus};
use crate::store::PoolName;

/// Needs no credentials, so it is limited by address.
const OPEN: &str = "/v1/invite-links";
pub(super) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(super) const STANDING: HeaderName = HeaderName::from_static("ratelimit");

/// Long polls of one key at once.
const POLLS: usize = 10;

/// The extractor that authenticates the caller stores their rate limit status here, for the answer's headers.
#[derive(Clone, Default)]
pub(super) struct StatusCell(Arc<Mutex<Option<(&'static str, RateLimitStatus)>>>);

impl StatusCell {
    /// The last word counts.
    fn set(&self, policy: &'static str, status: RateLimitStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((policy, status));
    }

    fn get(&self) -> Option<(&'static str, RateLimitStatus)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All rate limiters of this process. A limit that is off has none.
pub(super) struct Limits {
    keys: Option<Limiter<String>>,
    people: Option<Limiter<String>>,
    addresses: Option<Limiter<Option<IpAddr>>>,
    proxies: usize,
    /// Per key: the requests that may use the database at once.
    shares: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// How many requests of one key use the database at once; the others wait in order. One less than the connections, so
    /// that one key can't take them all.
    share: u32,
    /// Per key: the long polls that may wait at once.
    polls: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Limits {
    pub(super) fn new(app: &App) -> Self {
        fn limiter<K: Hash + Eq + Clone>(limit: Option<RateLimit>, app: &App) -> Option<Limiter<K>> {
            limit.and_then(|limit| Limiter::new(limit, &app.clock))
        }
        Self {
            keys: limiter(app.config.rate_limit, app),
            people: limiter(app.config.rate_limit_person, app),
            addresses: limiter(app.config.rate_limit_address, app),
            proxies: app.config.trusted_proxies,
            shares: Mutex::default(),
            share: app.config.connections.of(PoolName::Requests) - 1,
            polls: Mutex::default(),
        }
    }

    /// One call with an API key.
    pub(super) fn key(&self, parts: &Parts, name: &str) -> Result<(), Problem> {
        check("key", self.keys.as_ref(), &name.to_owned(), &parts.extensions)
    }

    /// What a batch costs beside its one call: as many calls as it has items. One that no bucket could ever pay for is
    /// refused.
    pub(super) fn batch(&self, name: &str, field: &str, items: usize, cell: &StatusCell) -> Result<(), Problem> {
        let Some(limiter) = &self.keys else { return Ok(()) };
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        let most = limiter.limit().calls();
        if items > most {
            let detail = format!(
                "must have at most {most} items: each is a call, and the key has {}",
                limiter.limit()
            );
            return Err(Problem::invalid(vec![FieldError::new(field, detail)]));
        }
        match NonZeroU32::new(items.saturating_sub(1)) {
            Some(more) => answer("key", limiter.check_many(&name.to_owned(), more), cell),
            None => Ok(()),
        }
    }

    /// A key's share of the database connections.
    pub(super) fn share(&self, name: &str) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(self.share as usize)));
        Arc::clone(share)
    }

    /// As how many requests a batch counts.
    pub(super) fn batch_share(&self) -> u32 {
        (self.share / 2).max(1)
    }

    /// One long poll with an API key, until the permit is dropped.
    pub(super) fn poll(&self, name: &str) -> Result<OwnedSemaphorePermit, Problem> {
        let mut polls = self.polls.lock().unwrap_or_else(PoisonError::into_inner);
        let poll = polls
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(POLLS)));
        Arc::clone(poll).try_acquire_owned().map_err(|_| {
            Problem::new(Code::RateLimited)
                .with_detail(format!("At most {POLLS} calls per key may wait at once."))
                .retry_after(1)
        })
    }

    /// One call by a signed-in person.
    pub(super) fn person(&self, parts: &Parts, clerk_user_id: &str) -> Result<(), Problem> {
        check(
            "person",
            self.people.as_ref(),
            &clerk_user_id.to_owned(),
            &parts.extensions,
        )
    }

    /// One call without credentials or with invalid ones. Calls with valid credentials never count against the address:
    /// behind a proxy, all callers may have the same.
    pub(super) fn address(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<(), Problem> {
        let address = client_address(headers, extensions, self.proxies);
        check("address", self.addresses.as_ref(), &address, extensions)
    }
}

fn check<K: Hash + Eq + Clone>(
    policy: &'static str,
    limiter: Option<&Limiter<K>>,
    caller: &K,
    extensions: &Extensions,
) -> Result<(), Problem> {
    let Some(limiter) = limiter else { return Ok(()) };
    let status = limiter.check(caller);
    answer(
        policy,
        status,
        &extensions.get::<StatusCell>().cloned().unwrap_or_default(),
    )
}

/// Leaves it for the answer's headers where the caller stands, and refuses a call that was one too many.
fn answer(policy: &'static str, status: RateLimitStatus, cell: &StatusCell) -> Result<(), Problem> {
    cell.set(policy, status);
    let Some(seconds) = status.retry_after else {
        return Ok(());
    };
    let detail = format!("At most {} per {policy}. Come again in {seconds} s.", status.limit);
    Err(Problem::new(Code::RateLimited).with_detail(detail).retry_after(seconds))
}

/// Limits what needs no credentials, and adds the rate limit headers to every answer.
pub(super) async fn layer(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let cell = StatusCell::default();
    request.extensions_mut().insert(cell.clone());
    let is_open = request.method() != Method::OPTIONS && request.uri().path().starts_with(OPEN);
    let admitted = if is_open {
        api.limits.address(request.headers(), request.extensions())
    } else {
        Ok(())
    };
    let mut response = match admitted {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    if let Some((policy, status)) = cell.get() {
        let (calls, seconds) = (status.limit.calls(), status.limit.seconds());
        let (remaining, reset) = (status.remaining, status.reset);
        for (name, value) in [
            (POLICY, format!("\"{policy}\";q={calls};w={seconds}")),
            (STANDING, format!("\"{policy}\";r={remaining};t={reset}")),
        ] {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(name, value);
            }
        }
    }
    response
}

/// The client's address: the peer, or, behind trusted proxies, the address that the outermost of them added to
/// `X-Forwarded-For`. Entries further left may be written by the client itself.
fn client_address(headers: &HeaderMap, extensions: &Extensions, proxies: usize) -> Option<IpAddr> {
    let peer = extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| peer.ip());
    let forwarded = proxies.checked_sub(1).and_then(|skip| {
        // Several headers are one list. As bytes, because the client may send entries that are not text.
        let lists: Vec<&[u8]> = headers
            .get_all("x-forwarded-for")
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let entries = lists.iter().flat_map(|list| list.split(|byte| *byte == b','));
        let named = entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty());
        named.rev().nth(skip).and_then(address_in)
    });
    forwarded.or(peer).map(network)
}

/// The address in an entry of `X-Forwarded-For`: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or
/// `[2001:db8::1]:4711`.
fn address_in(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches('"');
    let host = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    // A zone is meaningful only on the proxy's machine.
    host.split('%').next()?.parse().ok()
}

/// An IPv6 customer usually has a whole /64, so that is one client.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_its_peer_or_what_the_configured_proxies_say() {
        for (peer, forwarded, proxies, expected) in [
            ("192.0.2.1", "", 0, "192.0.2.1"),
            ("192.0.2.1", "198.51.100.7", 0, "192.0.2.1"),
            ("192.0.2.1", "198.51.100.7", 1, "198.51.100.7"),
            ("192.0.2.1", "1.2.3.4, 198.51.100.7", 1, "198.51.100.7"),
            ("192.0.2.1", "1.2.3.4, 198.51.100.7,10.0.0.1", 2, "198.51.100.7"),
            ("192.0.2.1", "nonsense", 1, "192.0.2.1"),
            ("192.0.2.1", "unknown, 198.51.100.7", 1, "198.51.100.7"),
            ("192.0.2.1", "198.51.100.7, unknown", 1, "192.0.2.1"),
            ("192.0.2.1", "198.51.100.7:4711", 1, "198.51.100.7"),
            ("192.0.2.1", "198.51.100.7:", 1, "198.51.100.7"),
            ("192.0.2.1", " \t198.51.100.7 ", 1, "198.51.100.7"),
            ("192.0.2.1", "198.51.100.7,", 1, "198.51.100.7"),
            ("192.0.2.1", ", ,198.51.100.7 , 10.0.0.1", 2, "198.51.100.7"),
            ("192.0.2.1", "\"[2001:db8::7]:4711\"", 1, "2001:db8::"),
            ("192.0.2.1", "2001:db8:1:2:3:4:5:6", 1, "2001:db8:1:2::"),
            ("192.0.2.1", "[2001:db8:1:2:3:4:5:6]", 1, "2001:db8:1:2::"),
            ("192.0.2.1", "[2001:db8:1:2:3:4:5:6]:4711", 1, "2001:db8:1:2::"),
            ("192.0.2.1", "[::ffff:198.51.100.7]:4711", 1, "198.51.100.7"),
            ("192.0.2.1", "[fe80::1%eth0]", 1, "fe80::"),
            ("192.0.2.1", "[2001:db8::1", 1, "192.0.2.1"),
            ("2001:db8:1:2::9", "[]:1", 1, "2001:db8:1:2::"),
            ("192.0.2.1", "198.51.100.7", 2, "192.0.2.1"),
            ("::ffff:192.0.2.1", "", 0, "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "", 0, "2001:db8:1:2::"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", forwarded.parse().unwrap());
            let mut extensions = Extensions::new();
            extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
            let address = client_address(&headers, &extensions, proxies);
            assert_eq!(address, Some(expected.parse().unwrap()), "{peer} {forwarded} {proxies}");
        }
    }
    #[test]
    fn bytes_that_are_no_text_spoil_no_other_entry_and_several_headers_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(
            "x-forwarded-for",
            HeaderValue::from_bytes(b"\xff\xfe, caf\xe9").unwrap(),
        );
        headers.append(
            "x-forwarded-for",
            HeaderValue::from_bytes(b"\xf0, 198.51.100.7").unwrap(),
        );
        headers.append("x-forwarded-for", HeaderValue::from_static("10.0.0.1:80"));
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 1))));
        let client = |proxies| client_address(&headers, &extensions, proxies).unwrap().to_string();
        assert_eq!(
            [client(0), client(1), client(2)],
            ["192.0.2.1", "10.0.0.1", "198.51.100.7"]
        );
        assert_eq!([client(3), client(9)], ["192.0.2.1", "192.0.2.1"]);
    }
}
