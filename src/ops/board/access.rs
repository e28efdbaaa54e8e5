//! Who may look at the board, and who may change something. One layer decides it for all its pages.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use url::form_urlencoded;
use url::{Host, Url};

use super::layout::refusal;
use super::viewer::{Viewer, who_looks};
use super::{Board, SIGN_IN};
use crate::config::Config;
use crate::repair;

/// The field of forms that has the session's token.
pub(super) const TOKEN_FIELD: &str = "token";
/// Forms hold ids and filters.
const MAX_FORM: usize = 64 * 1024;

/// The fields of a form that was sent, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Posted(Vec<(String, String)>);

impl Posted {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.0.iter();
        fields.find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn fields(&self) -> HashMap<String, String> {
        self.0.iter().cloned().collect()
    }
}

const SECURITY_HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // With `no-referrer`, browsers would send forms with the origin `null`.
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Why a request does not reach its page.
pub(super) enum Stop {
    Refused {
        status: StatusCode,
        title: &'static str,
        text: &'static str,
    },
    SignInFirst,
}

pub(super) fn refused(title: &'static str, text: &'static str) -> Stop {
    Stop::Refused {
        status: StatusCode::FORBIDDEN,
        title,
        text,
    }
}

/// Lets a request through to its page, or says why not. A refused form is in the audit.
pub(super) async fn guard(State(board): State<Board>, request: Request, next: Next) -> Response {
    let (method, uri, peer) = (request.method().clone(), request.uri().clone(), peer(&request));
    let viewer = who_looks(&board, &request);
    let name = viewer.as_ref().ok().and_then(Option::as_ref).cloned();
    let mut response = match admit(&board, request, viewer).await {
        Ok(request) => next.run(request).await,
        Err(Stop::SignInFirst) => to_sign_in(&method, &uri),
        Err(Stop::Refused { status, title, text }) => {
            if method == Method::POST && board.may_try(peer).is_ok() {
                let operator = board.operator(name.as_ref());
                repair::refuse(&board.app.store, operator, uri.path(), title).await;
            }
            refusal(status, title, text)
        }
    };
    for (name, value) in SECURITY_HEADERS {
        response
            .headers_mut()
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

async fn admit(board: &Board, request: Request, viewer: Result<Option<Viewer>, Stop>) -> Result<Request, Stop> {
    let host = host_of(request.headers(), request.uri());
    if !host.as_deref().is_some_and(|host| is_own_host(&board.app.config, host)) {
        return Err(Stop::Refused {
            status: StatusCode::MISDIRECTED_REQUEST,
            title: "This host name is not known here",
            text: "Open the board as localhost, for example through an SSH tunnel, or add the name to USHER_OPS_HOSTS.",
        });
    }
    if board.access.is_off() {
        return Err(refused(
            "The board is off",
            "USHER_ADMIN_LISTEN can be reached by others, and USHER_OPS_KEYS is not set. Make a key with \
             `usher ops-key --name you --role operate`, set its entry as USHER_OPS_KEYS, and restart usher.",
        ));
    }
    let viewer = viewer?;
    let is_sign_in = request.uri().path() == SIGN_IN;
    if request.method() == Method::POST {
        let (mut request, posted) = read_form(request).await?;
        if !is_sign_in {
            may_change(board, &request, viewer.as_ref(), &posted)?;
        } else if !is_same_origin(request.headers()) {
            return Err(foreign_origin());
        }
        request.extensions_mut().insert(posted);
        if let Some(viewer) = viewer {
            request.extensions_mut().insert(viewer);
        }
        return Ok(request);
    }
    let mut request = request;
    match viewer {
        Some(viewer) => drop(request.extensions_mut().insert(viewer)),
        None if board.access.keys.is_empty() => {
            return Err(refused(
                "You are not signed in",
                "Open the board at the address of the proxy that signs you in.",
            ));
        }
        None if is_sign_in => {}
        None => return Err(Stop::SignInFirst),
    }
    Ok(request)
}

/// Refuses a form that its session's own page did not send, or whose sender may only look.
fn may_change(board: &Board, request: &Request, viewer: Option<&Viewer>, posted: &Posted) -> Result<(), Stop> {
    let Some(viewer) = viewer else {
        return Err(refused(
            "You are not signed in",
            "Nothing was changed. Sign in and repeat what you did.",
        ));
    };
    if viewer.name.is_none() {
        return Err(refused(
            "The board only looks",
            "To change something, open the link that `usher serve` prints in development, or make a key with \
             `usher ops-key --name you --role operate`, set its entry as USHER_OPS_KEYS, and restart usher.",
        ));
    }
    if !is_same_origin(request.headers()) {
        return Err(foreign_origin());
    }
    let token = posted.get(TOKEN_FIELD).unwrap_or_default();
    if !board.sessions.is_form_token(&viewer.subject, token) {
        return Err(refused(
            "This form is not of your session",
            "Nothing was changed. Open the page again and repeat what you did.",
        ));
    }
    if !viewer.operates() && request.uri().path() != super::SIGN_OUT {
        return Err(refused(
            "You may only look",
            "Nothing was changed. The role `operate` is needed to change something.",
        ));
    }
    Ok(())
}

fn foreign_origin() -> Stop {
    refused("This form came from another site", "Nothing was changed.")
}

fn to_sign_in(method: &Method, from: &Uri) -> Response {
    let target = from.path_and_query().map_or(super::OVERVIEW, |target| target.as_str());
    let target = if *method == Method::GET {
        target
    } else {
        super::OVERVIEW
    };
    let query: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("next", target)
        .finish();
    Redirect::to(&format!("{SIGN_IN}?{query}")).into_response()
}

async fn read_form(request: Request) -> Result<(Request, Posted), Stop> {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, MAX_FORM).await else {
        return Err(refused("This form is too large", "Nothing was changed."));
    };
    let fields = form_urlencoded::parse(&bytes).into_owned().collect();
    Ok((Request::from_parts(parts, Body::empty()), Posted(fields)))
}

/// The host that the browser asked for, without its port.
fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = named.or(uri.authority().map(|authority| authority.as_str()))?;
    let url = Url::parse(&format!("http://{authority}/")).ok()?;
    url.host().map(|host| host.to_string())
}

/// A page of another site can make its own name lead here (DNS rebinding), but not choose the name that is sent.
fn is_own_host(config: &Config, host: &str) -> bool {
    let own = config.admin_listen.ip();
    let is_own_address = |ip: IpAddr| ip.is_loopback() || own.is_unspecified() || ip == own;
    match Host::parse(host) {
        Ok(Host::Ipv4(ip)) => is_own_address(ip.into()),
        Ok(Host::Ipv6(ip)) => is_own_address(ip.into()),
        Ok(Host::Domain(name)) => name == "localhost" || config.ops_hosts.contains(&name),
        Err(_) => false,
    }
}

/// Browsers say with each form which page sent it; other clients need not.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else {
        return true;
    };
    let origin = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    text(header::HOST).is_some_and(|host| host.eq_ignore_ascii_case(origin))
}

impl Board {
    /// Counts an attempt that failed, or may fail; the error is the seconds to wait.
    pub(super) fn may_try(&self, peer: Option<IpAddr>) -> Result<(), u32> {
        let address = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let limit = self.attempts.as_ref();
        limit
            .and_then(|limit| limit.check(&address).retry_after)
            .map_or(Ok(()), Err)
    }
}

/// Where a request came from, for the limit on attempts.
pub(super) fn peer(request: &Request) -> Option<IpAddr> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map(|ConnectInfo(peer)| peer.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(origin: Option<&str>, host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_form_comes_from_a_page_of_the_same_host_and_port() {
        for (origin, expected) in [
            (None, true),
            (Some("http://localhost:9090"), true),
            (Some("https://LOCALHOST:9090"), true),
            (Some("http://localhost:9091"), false),
            (Some("http://evil.example"), false),
            (Some("null"), false),
        ] {
            assert_eq!(
                is_same_origin(&headers(origin, "localhost:9090")),
                expected,
                "{origin:?}"
            );
        }
    }

    #[test]
    fn a_host_is_read_without_its_port() {
        let uri = Uri::from_static("/board");
        for (host, expected) in [
            ("localhost:9090", Some("localhost")),
            ("[::1]:9090", Some("[::1]")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(host_of(&headers(None, host), &uri).as_deref(), expected, "{host}");
        }
    }
}
