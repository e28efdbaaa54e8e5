//! `GET /`: one line of what this is and, in development, where to go from here.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;

use super::{CSP, escaped};
use crate::app::App;
use crate::config::{Config, Environment, MailRoute};

const WHAT_THIS_IS: &str = "usher adds invited people to the organizations and projects that they were invited to.";
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'",
);

/// A place to look at in development: what it is and where.
pub struct Link {
    pub name: &'static str,
    pub url: String,
}

/// What can be opened in development, on these addresses.
#[must_use]
pub fn links(public: &str, private: SocketAddr) -> Vec<Link> {
    let link = |name, url| Link { name, url };
    vec![
        link("API", format!("{public}/docs")),
        link("accept page", format!("{public}/i")),
        link("banner", format!("{public}/ui/usher.js")),
        link("board", format!("http://{private}/board")),
    ]
}

/// Where development's mails are, if they are files.
#[must_use]
pub fn mail_folder(config: &Config) -> Option<String> {
    match &config.mail_route {
        MailRoute::Outbox(folder) => Some(folder.display().to_string()),
        MailRoute::Smtp(_) => None,
    }
}

pub(super) fn router(app: &App) -> Router {
    let page: Arc<str> = html(&app.config).into();
    Router::new().route("/", get(async move || show(&page)))
}

fn show(page: &str) -> impl IntoResponse + use<> {
    let headers = [
        (CSP, POLICY),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    (headers, Html(page.to_owned()))
}

fn html(config: &Config) -> String {
    let more = match config.environment {
        Environment::Development => in_development(config),
        Environment::Production => String::new(),
    };
    include_str!("home.html")
        .replace("{what}", WHAT_THIS_IS)
        .replace("{more}", &more)
}

fn in_development(config: &Config) -> String {
    // The page is asked for at this host, so its links need none. Port 0 is one that the system chooses later.
    let links = links("", config.admin_listen);
    let is_known = |link: &&Link| link.url.starts_with('/') || config.admin_listen.port() != 0;
    let items: String = links.iter().filter(is_known).map(item).collect();
    let mails = mail_folder(config).map(|folder| format!("<p>Mails are files in {}.</p>\n", escaped(&folder)));
    format!("<p>Development:</p>\n<ul>\n{items}</ul>\n{}", mails.unwrap_or_default())
}

fn item(Link { name, url }: &Link) -> String {
    format!(
        "<li><a href=\"{}\">{name}</a></li>\n",
        escaped(url.trim_start_matches('/'))
    )
}
