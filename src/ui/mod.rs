//! usher's own pages: the accept page, the banner, which apps load, and `/`. What needs a decision is asked of the API.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

use crate::app::App;

mod accept;
pub mod fake_clerk;
pub mod home;

const CSP: HeaderName = HeaderName::from_static("content-security-policy");

/// What a browser may do with a script that any app's page loads.
const CROSS_ORIGIN: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
];

/// The pages.
pub fn pages(app: &App) -> Router {
    home::router(app)
        .merge(accept::router(app))
        .merge(fake_clerk::router(app))
}

/// The files that browsers load, and may keep.
pub fn files() -> Router {
    let file = |name: &str, kind: &'static str, text: &'static str| {
        Router::new().route(name, get(serve).with_state(File::new(kind, text)))
    };
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    Router::new()
        .merge(file("/ui/usher.js", SCRIPT, include_str!("usher.js")))
        .merge(file("/ui/accept.js", SCRIPT, include_str!("accept.js")))
        .merge(file("/ui/clerk.js", SCRIPT, include_str!("clerk.js")))
        .merge(file("/ui/icon.svg", "image/svg+xml", include_str!("icon.svg")))
        .merge(file(
            "/ui/accept.css",
            "text/css; charset=utf-8",
            include_str!("accept.css"),
        ))
        .layer(map_response(async |mut answer: Response| {
            for (name, value) in CROSS_ORIGIN {
                answer.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            answer
        }))
}

/// A file that is part of the program. Browsers ask again each time, and get it only where it has changed.
#[derive(Clone)]
struct File {
    kind: &'static str,
    text: &'static str,
    etag: Arc<str>,
}

impl File {
    fn new(kind: &'static str, text: &'static str) -> Self {
        let etag = format!("\"{}\"", hex::encode(&Sha256::digest(text)[..16]));
        let etag = etag.into();
        Self { kind, text, etag }
    }
}

async fn serve(State(file): State<File>, headers: HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_known = known.is_some_and(|known| {
        known
            .split(',')
            .any(|tag| tag.trim().trim_start_matches("W/") == &*file.etag)
    });
    let about = [
        (header::CONTENT_TYPE, file.kind),
        (header::ETAG, &*file.etag),
        (header::CACHE_CONTROL, "public, max-age=300"),
    ];
    if is_known {
        (StatusCode::NOT_MODIFIED, about).into_response()
    } else {
        (about, file.text).into_response()
    }
}

/// For attributes and text.
fn escaped(text: &str) -> String {
    let replaced = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // Braces, so that a name can't be taken for a place of the page's.
    replaced
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
        .replace('{', "&#123;")
}
