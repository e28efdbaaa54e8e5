//! The page that invite links lead to by default. It is the same for all: the token is in the address's fragment, which
//! browsers don't send, and the page's script asks the API about it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;

use super::{CSP, escaped};
use crate::app::App;
use crate::config::{Config, PublishableKey};

/// The page, made once.
struct Page {
    html: String,
    policy: HeaderValue,
}

pub(super) fn router(app: &App) -> Router {
    let config = &app.config;
    let key = config.clerk_publishable_key.as_ref();
    let policy = HeaderValue::from_str(&policy(key)).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let page = Arc::new(Page {
        html: html(config),
        policy,
    });
    Router::new().route("/i", get(show).with_state(page))
}

async fn show(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let headers = [
        (CSP, page.policy.clone()),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    (headers, Html(page.html.clone()))
}

/// What Clerk's documentation lists for its script, if there is a key; else only usher's own files.
fn policy(key: Option<&PublishableKey>) -> String {
    const COMMON: &str = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    match key {
        None => format!("{COMMON}; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'"),
        Some(PublishableKey { frontend_api, .. }) => format!(
            "{COMMON}; script-src 'self' https://{frontend_api} https://challenges.cloudflare.com https://*.protect.clerk.com; \
             connect-src 'self' https://{frontend_api} https://*.protect.clerk.com:*; img-src 'self' https://img.clerk.com; \
             worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; \
             frame-src https://challenges.cloudflare.com https://*.protect.clerk.com"
        ),
    }
}

fn html(config: &Config) -> String {
    let key = config.clerk_publishable_key.as_ref();
    include_str!("accept.html")
        .replace("{app_name}", &escaped(&config.app_name))
        .replace("{app_url}", &escaped(config.app_url.as_deref().unwrap_or_default()))
        .replace("{key}", &escaped(key.map_or("", |key| &key.key)))
        .replace(
            "{development}",
            if config.fake_clerk_key.is_some() { "yes" } else { "" },
        )
        .replace("{frontend_api}", &escaped(key.map_or("", |key| &key.frontend_api)))
}
