//! The board as operators open it.

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, header};
use tower::ServiceExt as _;
use url::form_urlencoded;
use usher::app::App;
use usher::config::Settings;
use usher::ops::CatalogWatch;
use usher::secret::Secret;

use super::TestApp;

pub const ADA: &str = "ada-ops-key-of-more-than-32-characters";
pub const BOB: &str = "bob-ops-key-of-more-than-32-characters";
const HOST: &str = "localhost:9090";

pub fn with_keys(settings: &mut Settings) {
    settings.usher_ops_keys = Some(Secret::from(format!("ada:{ADA}:operate,bob:{BOB}:view")));
}

/// The board's pages as a browser sees them.
pub struct Browser {
    pub pages: Router,
    pub cookie: String,
    pub host: &'static str,
    /// Where its requests come from.
    pub peer: Option<IpAddr>,
    pub headers: Vec<(&'static str, &'static str)>,
}

/// A page.
pub struct Page {
    pub status: u16,
    pub body: String,
    pub location: Option<String>,
    pub cookie: Option<String>,
    pub policy: String,
}

impl Page {
    #[track_caller]
    pub fn shows(&self, text: &str) -> &Self {
        assert!(
            self.body.contains(text),
            "{} has no {text}:\n{}",
            self.status,
            self.body
        );
        self
    }

    #[track_caller]
    pub fn hides(&self, text: &str) -> &Self {
        assert!(!self.body.contains(text), "{text} is shown:\n{}", self.body);
        self
    }

    /// The hidden fields of its last form, which is the one for the change.
    pub fn form(&self) -> Vec<(String, String)> {
        let form = self.body.rsplit_once("<form").expect("a form").1;
        let fields = form.split("<input type=\"hidden\"").skip(1);
        let attribute = |field: &str, name: &str| {
            let (_, rest) = field.split_once(&format!("{name}=\"")).expect("an attribute");
            rest.split_once('"')
                .expect("its end")
                .0
                .replace("&amp;", "&")
                .replace("&quot;", "\"")
        };
        fields
            .map(|field| (attribute(field, "name"), attribute(field, "value")))
            .collect()
    }
}

impl Browser {
    pub fn new(app: &App) -> Self {
        Self {
            pages: usher::ops::board(app, None, CatalogWatch::start(&app.store, app.config.rules())),
            cookie: String::new(),
            host: HOST,
            peer: None,
            headers: Vec::new(),
        }
    }

    pub async fn signed_in(app: &TestApp, key: &str) -> Self {
        let mut browser = Self::new(&app.app);
        let page = browser.sign_in(key).await;
        assert_eq!((page.status, page.location.as_deref()), (303, Some("/board")));
        browser.cookie = page.cookie.expect("a cookie").split(';').next().unwrap().to_owned();
        browser
    }

    /// Another browser on the same board.
    pub async fn signed_in_at(other: &Self, key: &str) -> Self {
        let mut browser = Self {
            pages: other.pages.clone(),
            cookie: String::new(),
            host: HOST,
            peer: None,
            headers: Vec::new(),
        };
        let page = browser.sign_in(key).await;
        browser.cookie = page.cookie.expect("a cookie").split(';').next().unwrap().to_owned();
        browser
    }

    pub async fn sign_in(&self, key: &str) -> Page {
        self.post("/board/sign-in", &[("key".to_owned(), key.to_owned())]).await
    }

    pub async fn get(&self, path: &str) -> Page {
        self.send(Method::GET, path, Body::empty(), None).await
    }

    pub async fn post(&self, path: &str, fields: &[(String, String)]) -> Page {
        self.post_from(path, fields, None).await
    }

    pub async fn post_from(&self, path: &str, fields: &[(String, String)], origin: Option<&str>) -> Page {
        let form: String = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        self.send(Method::POST, path, Body::from(form), origin).await
    }

    async fn send(&self, method: Method, path: &str, body: Body, origin: Option<&str>) -> Page {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.host);
        request = request.header(header::COOKIE, &self.cookie);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        if let Some(peer) = self.peer {
            request = request.extension(ConnectInfo(SocketAddr::new(peer, 40_000)));
        }
        let response = self.pages.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = |name| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Page {
            status: parts.status.as_u16(),
            location: text(header::LOCATION),
            cookie: text(header::SET_COOKIE),
            policy: text(header::CONTENT_SECURITY_POLICY).unwrap_or_default(),
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }
}

/// The audit as `who: what, how many` or why it was refused, newest first.
pub async fn audit(app: &TestApp) -> Vec<String> {
    let entries = app.app.store.read().await.unwrap().audit(None, 99).await.unwrap();
    let line = |entry: usher::store::AuditView| match entry.refused {
        Some(why) => format!("{}: {}, {why}", entry.who, entry.action),
        None => format!("{}: {} {}, {}", entry.who, entry.action, entry.subject, entry.changed),
    };
    entries.into_iter().map(line).collect()
}
