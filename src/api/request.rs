//! Each request has an id: that of its trace, its own `x-request-id`, or a new one. It is returned, logged, and stored as
//! the correlation id of everything that the request does.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use super::Api;
use crate::clock::Clock;
use crate::telemetry;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// In characters.
const MAX_ID: usize = 64;

/// Gives the request its id, and logs it at level debug. Only the route is logged: paths contain tokens.
pub(super) async fn layer(State(api): State<Api>, request: Request, next: Next) -> Response {
    let id = id_of(request.headers(), &api.app.clock);
    let (method, route) = (request.method().clone(), route(&request));
    let span = tracing::info_span!("request", request.id = id, http.method = %method, http.route = route);
    let logged = span.clone();
    let started = Instant::now();
    let mut response = telemetry::with_correlation_id(id.clone(), span, next.run(request)).await;
    let (status, millis) = (response.status().as_u16(), started.elapsed().as_millis());
    logged.in_scope(|| tracing::debug!(http.status = status, "{method} {route} {status} in {millis} ms"));
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn route(request: &Request) -> String {
    let route = request.extensions().get::<MatchedPath>();
    route.map_or_else(String::new, |route| route.as_str().to_owned())
}

fn id_of(headers: &HeaderMap, clock: &Clock) -> String {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    // W3C Trace Context: version, trace id, parent id, flags.
    let trace = text("traceparent").and_then(|parent| parent.split('-').nth(1));
    let given = text(REQUEST_ID.as_str()).filter(|id| is_id(id));
    trace
        .filter(|id| telemetry::is_trace_id(id))
        .or(given)
        .map_or_else(|| clock.new_id().simple().to_string(), str::to_owned)
}

fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= MAX_ID && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_trace_its_own_id_or_a_fresh_one() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let id = |headers: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            id_of(&map, &Clock::System)
        };
        let its_own = ("x-request-id", "checkout-7");
        assert_eq!(id(&[its_own]), "checkout-7");
        assert_eq!(
            id(&[its_own, ("traceparent", trace)]),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        for wrong in ["", "with spaces", "ada@example.com", &"x".repeat(65)] {
            assert!(telemetry::is_trace_id(&id(&[("x-request-id", wrong)])), "{wrong}");
        }
        assert_ne!(id(&[]), id(&[("traceparent", "00-0-0-01")]));
    }
}
