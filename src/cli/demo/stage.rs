//! The demo's usher in this process, and what each party does with it over HTTP.

use std::fs::{self, File, TryLockError};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::mails::{self, Mail};
use super::timeline::{self, Party, Timeline};
use crate::app::App;
use crate::cli::fake_clerk::{Delivery, WRONG_SECRET, http_client, message_id, session_id};
use crate::cli::paint::status;
use crate::clock::Clock;
use crate::config::{DevSecrets, Settings};
use crate::ops::board_link;
use crate::service::{Role, Service};
use usher_clerk::{DevSigner, EventKind};
use usher_testkit::fake_clerk::{FakeUser, SignIn, event};

/// How long an effect may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

pub(super) struct Stage {
    /// The public address.
    pub address: String,
    /// The private address.
    pub admin_address: String,
    /// The link to the board.
    pub board: String,
    /// The folder of mails.
    pub outbox: PathBuf,
    /// The database's file.
    pub database: PathBuf,
    pub secrets: DevSecrets,
    pub organization_id: Uuid,
    pub project_id: Uuid,
    pub clock: Clock,
    app: App,
    timeline: Timeline,
    signer: DevSigner,
    http: reqwest::Client,
    _lock: File,
}

impl Stage {
    /// Empties the folder and starts usher in it.
    pub(super) async fn set(folder: &Path) -> anyhow::Result<(Self, Service)> {
        let lock = take(folder)?;
        empty(folder)?;
        let (app, service) = start(folder).await?;
        let address = service.address().context("usher does not listen")?;
        let secrets = DevSecrets::load_or_generate(folder)?;
        let clock = Clock::System;
        let address = format!("http://{address}");
        let stage = Self {
            http: http_client(&Url::parse(&address)?)?,
            address,
            admin_address: format!("http://{}", service.admin_address()),
            board: board_link(&app.config, service.admin_address()),
            outbox: folder.join("outbox"),
            database: folder.join("usher.db"),
            signer: DevSigner::from_pkcs8_pem(&secrets.session_key)?,
            secrets,
            organization_id: clock.new_id(),
            project_id: clock.new_id(),
            clock,
            app,
            timeline: Timeline::start(),
            _lock: lock,
        };
        Ok((stage, service))
    }

    pub(super) async fn part<T>(
        &self,
        title: &str,
        part: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        timeline::title(title);
        part.await.with_context(|| {
            format!("the demo did not come out as told at “{title}” (RUST_LOG=info usher demo tells more)")
        })
    }

    pub(super) fn saw(&self, party: Party, what: &str) {
        self.timeline.line(party, what);
    }

    pub(super) fn answered(&self, party: Party, answer: &Answer, what: &str) {
        let Answer {
            asked, status: code, ..
        } = answer;
        self.timeline.line(party, format!("{asked} {}  {what}", status(*code)));
    }

    /// A request of the app, with its key.
    pub(super) async fn app(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.address);
        let asked = format!("{method} {}", shortened(path));
        let request = self.http.request(method, url).bearer_auth(&self.secrets.api_key);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        answer(asked, request).await
    }

    /// A request of a signed-in person, with a session token like Clerk's.
    pub(super) async fn person(&self, user_id: &str, method: Method, path: &str) -> anyhow::Result<Answer> {
        let sign_in = SignIn {
            user_id,
            session_id: &session_id(user_id),
            issuer: DevSecrets::ISSUER,
            party: None,
        };
        let token = sign_in.token(&self.signer, self.clock.now(), TimeDelta::seconds(60))?;
        let url = format!("{}{path}", self.address);
        let asked = format!("{method} {}", shortened(path));
        answer(asked, self.http.request(method, url).bearer_auth(token)).await
    }

    /// A request to the private address.
    pub(super) async fn ops(&self, path: &str) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.admin_address);
        answer(format!("GET {path}"), self.http.get(url)).await
    }

    /// An event of Clerk.
    pub(super) async fn clerk(&self, kind: EventKind, data: Value) -> anyhow::Result<Answer> {
        let secret = &self.secrets.signing_secret;
        self.webhook(kind, data, secret, message_id(&self.clock)).await
    }

    /// An event of Clerk with this message id.
    pub(super) async fn clerk_as(&self, svix_id: &str, kind: EventKind, data: Value) -> anyhow::Result<Answer> {
        let secret = &self.secrets.signing_secret;
        self.webhook(kind, data, secret, svix_id.to_owned()).await
    }

    /// An event signed with a wrong secret.
    pub(super) async fn forger(&self, svix_id: &str, kind: EventKind, data: Value) -> anyhow::Result<Answer> {
        self.webhook(kind, data, WRONG_SECRET, svix_id.to_owned()).await
    }

    async fn webhook(&self, kind: EventKind, data: Value, secret: &str, svix_id: String) -> anyhow::Result<Answer> {
        let url = Url::parse(&format!("{}/webhooks/clerk", self.address))?;
        let now = self.clock.now();
        let delivery = Delivery::sign(url, secret, svix_id, &event(kind.as_str(), data, now), now)?;
        let (status, body) = delivery.send(&self.http).await.context("the webhook broke off")?;
        Ok(Answer {
            asked: kind.to_string(),
            status,
            json: serde_json::from_str(&body).unwrap_or_default(),
        })
    }

    /// Repeats `look` until it returns something.
    pub(super) async fn until<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(seen) = look().await? {
                return Ok(seen);
            }
            ensure!(
                Instant::now() < deadline,
                "waited {} s in vain for {what}",
                TIMEOUT.as_secs()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The link that an invite's mail has.
    pub(super) async fn link(&self, invite_id: &str) -> anyhow::Result<String> {
        let invite = self.app.store.read().await?.invite(invite_id.parse()?).await?;
        let claim = invite.context("the invite is gone")?.link_claim();
        Ok(self.app.config.invite_url.link(&self.app.token_key.token(claim)))
    }

    /// Waits for a mail.
    pub(super) async fn mail(&self, to: &str, subject: &str) -> anyhow::Result<Mail> {
        self.until(&format!("a mail to {to}, “{subject}”"), async || {
            let mails = mails::read(&self.outbox).await?;
            Ok(mails.into_iter().find(|mail| mail.to == to && mail.subject == subject))
        })
        .await
    }
}

/// Locks the folder for this demo.
fn take(folder: &Path) -> anyhow::Result<File> {
    let problem = || format!("{} can't be used", folder.display());
    fs::create_dir_all(folder).with_context(problem)?;
    let lock = File::open(folder).with_context(problem)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!("another usher demo is at work in {}: stop it first", folder.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(problem),
    }
}

fn empty(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let removed = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("{} can't be removed", path.display()))?;
    }
    Ok(())
}

async fn start(folder: &Path) -> anyhow::Result<(App, Service)> {
    let settings = Settings {
        usher_env: Some("development".to_owned()),
        usher_listen: Some(free_address()?),
        usher_admin_listen: Some("127.0.0.1:0".to_owned()),
        app_name: Some("Engine Room".to_owned()),
        ..Settings::default()
    };
    let app = App::new(settings.resolve_in(folder)?, Clock::System).await?;
    app.store.migrate(&app.config.rules()).await?;
    let service = Service::start(app.clone(), Role::All).await?;
    Ok((app, service))
}

/// Chosen before the start, because the links in mails name it.
fn free_address() -> anyhow::Result<String> {
    let free = TcpListener::bind("127.0.0.1:0").context("there is no free port")?;
    Ok(free.local_addr()?.to_string())
}

/// An answer, with its request.
#[derive(Debug)]
pub(super) struct Answer {
    asked: String,
    status: StatusCode,
    /// The body; null if it is not JSON.
    pub json: Value,
}

impl Answer {
    /// The answer, if it has this status.
    pub(super) fn expect(self, status: StatusCode) -> anyhow::Result<Self> {
        let Self {
            asked,
            status: got,
            json,
        } = &self;
        if *got != status {
            bail!("{asked} was answered {got}, not {status}: {json}");
        }
        Ok(self)
    }

    /// A field of the body: `/delivery/status`.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn items(&self) -> &[Value] {
        self.json["items"].as_array().map_or(&[], Vec::as_slice)
    }
}

async fn answer(asked: String, request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
    let response = request.send().await.with_context(|| format!("{asked} broke off"))?;
    let status = response.status();
    let body = response.text().await.with_context(|| format!("{asked} broke off"))?;
    Ok(Answer {
        asked,
        status,
        json: serde_json::from_str(&body).unwrap_or_default(),
    })
}

/// A path without ids.
fn shortened(path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        if segment.parse::<Uuid>().is_ok() {
            "…"
        } else {
            segment
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Person {
    pub first_name: &'static str,
    pub last_name: &'static str,
    pub email: &'static str,
}

impl Person {
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.first_name, self.last_name)
    }

    pub(super) fn user_id(&self) -> String {
        crate::cli::fake_clerk::user_id(self.email)
    }

    /// Clerk's description of them.
    pub(super) fn user(&self, clock: &Clock, age: TimeDelta) -> FakeUser {
        let now = clock.now();
        FakeUser {
            first_name: Some(self.first_name.to_owned()),
            last_name: Some(self.last_name.to_owned()),
            created_at: now - age,
            ..FakeUser::new(self.user_id(), self.email, now)
        }
    }
}
