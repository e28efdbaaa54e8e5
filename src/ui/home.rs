//! `GET /`: one line of what this is and, in development, where to go from here.

use std::net::SocketAddr;
use std::path::Path;
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

/// The page with development's mails, on the private address.
pub const MAILBOX: &str = "/board/mailbox";

/// What can be opened in development, on these addresses.
#[must_use]
pub fn links(config: &Config, public: &str, private: SocketAddr) -> Vec<Link> {
    let link = |name, url| Link { name, url };
    let mut links = vec![
        link("API", format!("{public}/docs")),
        link("accept page", format!("{public}/i")),
        link("banner", format!("{public}/ui/usher.js")),
        link("board", format!("http://{private}/board")),
    ];
    links.extend(mail_folder(config).map(|_| link("mailbox", format!("http://{private}{MAILBOX}"))));
    links
}

/// Where development's mails are, if they are files.
#[must_use]
pub fn mail_folder(config: &Config) -> Option<&Path> {
    match &config.mail_route {
        MailRoute::Outbox(folder) if config.environment == Environment::Development => Some(folder),
        _ => None,
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
    let links = links(config, "", config.admin_listen);
    let is_known = |link: &&Link| link.url.starts_with('/') || config.admin_listen.port() != 0;
    let items: String = links.iter().filter(is_known).map(item).collect();
    let mails = mail_folder(config).map(|folder| {
        format!(
            "<p>Mails are files in {}.</p>\n",
            escaped(&folder.display().to_string())
        )
    });
    format!("<p>Development:</p>\n<ul>\n{items}</ul>\n{}", mails.unwrap_or_default())
}

fn item(Link { name, url }: &Link) -> String {
    format!(
        "<li><a href=\"{}\">{name}</a></li>\n",
        escaped(url.trim_start_matches('/'))
    )
}
