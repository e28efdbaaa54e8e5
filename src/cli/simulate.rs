//! `usher simulate`: signs and sends an event like Clerk, to a running usher.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::Value;
use url::Url;

use super::fake_clerk::{Delivery, WRONG_SECRET, http_client, message_id, session_id, user_id};
use super::paint::{FAINT, STRONG, paint, status};
use crate::clock::Clock;
use crate::clock::parse_duration;
use crate::config::{Config, DevSecrets, Environment, SessionKeySource, VAR};
use usher_clerk::{DevSigner, EventKind};
use usher_testkit::fake_clerk::{FakeUser, SignIn, deleted_user, event, session};

const PATH: &str = "/webhooks/clerk";

/// Sign and send an event like Clerk, to a running usher.
///
/// The event is signed with the first secret of CLERK_WEBHOOK_SIGNING_SECRET and sent to USHER_LISTEN. Use the same settings
/// as for `usher serve`.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Simulate {
    /// A person signed up.
    #[command(name = "user.created")]
    UserCreated(UserEvent),
    /// A person's name, addresses or their verification changed.
    #[command(name = "user.updated")]
    UserUpdated(UserEvent),
    /// A person's account was deleted.
    #[command(name = "user.deleted")]
    UserDeleted(DeletedEvent),
    /// A person signed in.
    #[command(name = "session.created")]
    SessionCreated(SessionEvent),
    /// A session ended.
    #[command(name = "session.ended")]
    SessionEnded(SessionEvent),
    /// A person signed out.
    #[command(name = "session.removed")]
    SessionRemoved(SessionEvent),
    /// A session was revoked.
    #[command(name = "session.revoked")]
    SessionRevoked(SessionEvent),
    /// Not an event: print a session token for /v1/me. Development only.
    Token(Token),
}

const EXAMPLES: &str = "\
Examples:
  usher simulate user.created --email ada@example.com --first-name Ada
  usher simulate session.created --email alan@example.com --with-user --created 30d
  usher simulate user.updated --email ada@example.com --forge
  curl http://127.0.0.1:8080/v1/me/invites \\
    -H \"Authorization: Bearer $(usher simulate token --email ada@example.com)\"";

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Who {
    /// The Clerk user id. Default: derived from the first address, so the same for the same address.
    #[arg(long, value_name = "user_…")]
    user: Option<String>,
    /// An address of the user; repeat the flag for more. The first is the primary one.
    #[arg(long, value_name = "ADDRESS")]
    email: Vec<String>,
}

#[derive(Debug, Default, PartialEq, clap::Args)]
struct Profile {
    /// The addresses are not verified.
    #[arg(long)]
    unverified: bool,
    /// The first name.
    #[arg(long, value_name = "NAME")]
    first_name: Option<String>,
    /// The last name.
    #[arg(long, value_name = "NAME")]
    last_name: Option<String>,
    /// The user is banned.
    #[arg(long)]
    banned: bool,
    /// How long ago the account was created, such as `30d`. Default: now.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    created: Option<TimeDelta>,
}

#[derive(Debug, clap::Args)]
struct Way {
    /// The URL of usher. Default: USHER_LISTEN.
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// The message id; use the same one again to simulate a repeated delivery. Default: a new one.
    #[arg(long, value_name = "msg_…")]
    id: Option<String>,
    /// Sign with a wrong secret. usher must answer 401.
    #[arg(long)]
    forge: bool,
    /// Only print the curl command. Its signature is valid for five minutes.
    #[arg(long)]
    dry_run: bool,
}

/// `user.created` and `user.updated`.
#[derive(Debug, clap::Args)]
pub struct UserEvent {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    profile: Profile,
    #[command(flatten)]
    way: Way,
}

/// `user.deleted`.
#[derive(Debug, clap::Args)]
pub struct DeletedEvent {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    way: Way,
}

/// The session events.
#[derive(Debug, clap::Args)]
pub struct SessionEvent {
    #[command(flatten)]
    who: Who,
    /// The session id. Default: derived from the user id, so the same for the same user.
    #[arg(long, value_name = "sess_…")]
    session: Option<String>,
    /// Include the whole user in the event, as newer versions of Clerk do.
    #[arg(long)]
    with_user: bool,
    #[command(flatten)]
    profile: Profile,
    #[command(flatten)]
    way: Way,
}

/// A session token.
#[derive(Debug, clap::Args)]
pub struct Token {
    #[command(flatten)]
    who: Who,
    /// The session id. Default: derived from the user id, so the same for the same user.
    #[arg(long, value_name = "sess_…")]
    session: Option<String>,
    /// How long the token is valid, such as `10m`. Default: 60 seconds, like Clerk's.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lifetime: Option<TimeDelta>,
}

impl Simulate {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let clock = Clock::System;
        let now = clock.now();
        let (kind, (data, way)) = match self {
            Self::UserCreated(user) => (EventKind::UserCreated, user.data(now)),
            Self::UserUpdated(user) => (EventKind::UserUpdated, user.data(now)),
            Self::UserDeleted(user) => (EventKind::UserDeleted, user.data()),
            Self::SessionCreated(session) => (EventKind::SessionCreated, session.data("active", now)?),
            Self::SessionEnded(session) => (EventKind::SessionEnded, session.data("ended", now)?),
            Self::SessionRemoved(session) => (EventKind::SessionRemoved, session.data("removed", now)?),
            Self::SessionRevoked(session) => (EventKind::SessionRevoked, session.data("revoked", now)?),
            Self::Token(token) => return token.print(config, now),
        };
        way.send(config, &clock, kind, data).await
    }
}

impl Who {
    /// clap requires at least one of the two.
    fn user_id(&self) -> String {
        let derived = || self.email.first().map(|email| user_id(email));
        self.user.clone().or_else(derived).unwrap_or_default()
    }
}

impl Profile {
    fn user(&self, who: &Who, now: DateTime<Utc>) -> FakeUser {
        FakeUser {
            id: who.user_id(),
            emails: who
                .email
                .iter()
                .map(|email| (email.clone(), !self.unverified))
                .collect(),
            first_name: self.first_name.clone(),
            last_name: self.last_name.clone(),
            banned: self.banned,
            created_at: now - self.created.unwrap_or_default(),
            updated_at: now,
        }
    }
}

impl UserEvent {
    fn data(self, now: DateTime<Utc>) -> (Value, Way) {
        (self.profile.user(&self.who, now).to_json(), self.way)
    }
}

impl DeletedEvent {
    fn data(self) -> (Value, Way) {
        (deleted_user(&self.who.user_id()), self.way)
    }
}

impl SessionEvent {
    fn data(self, status: &str, now: DateTime<Utc>) -> anyhow::Result<(Value, Way)> {
        ensure!(
            self.with_user || self.profile == Profile::default(),
            "names, --unverified, --banned and --created describe the user: add --with-user"
        );
        let user_id = self.who.user_id();
        let session_id = self.session.unwrap_or_else(|| session_id(&user_id));
        let user = self.with_user.then(|| self.profile.user(&self.who, now));
        let data = session(&session_id, &user_id, status, user.as_ref(), now);
        Ok((data, self.way))
    }
}

impl Way {
    async fn send(self, config: &Config, clock: &Clock, kind: EventKind, data: Value) -> anyhow::Result<()> {
        let url = self.address(config)?;
        let secret = match config.signing_secrets.first() {
            _ if self.forge => WRONG_SECRET,
            Some(secret) => secret.expose(),
            None => bail!("CLERK_WEBHOOK_SIGNING_SECRET is missing"),
        };
        let svix_id = self.id.unwrap_or_else(|| message_id(clock));
        let about = subject(&data);
        let now = clock.now();
        let delivery = Delivery::sign(url, secret, svix_id, &event(kind.as_str(), data, now), now)?;
        if self.dry_run {
            println!("{}", delivery.as_curl());
            return Ok(());
        }
        let http = http_client(&delivery.url)?;
        let (answer, body) = delivery
            .send(&http)
            .await
            .map_err(|error| unsent(&error, &delivery.url))?;
        print_sent(kind, &about, &delivery, self.forge);
        print_answer(answer, &body);
        judge(answer, self.forge)
    }

    /// `--url` may be the whole URL or only the host.
    fn address(&self, config: &Config) -> anyhow::Result<Url> {
        let mut url = match &self.url {
            Some(url) => url.clone(),
            None => listening_at(config.listen)?,
        };
        ensure!(
            matches!(url.scheme(), "http" | "https"),
            "--url must be an http:// or https:// address"
        );
        if url.path() == "/" {
            url.set_path(PATH);
        }
        Ok(url)
    }
}

/// The URL of a server that listens on this address, from this machine.
fn listening_at(listen: SocketAddr) -> anyhow::Result<Url> {
    ensure!(
        listen.port() != 0,
        "USHER_LISTEN names no port, so usher serves on a free one: say which with --url http://127.0.0.1:…"
    );
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Url::parse(&format!("http://{address}/")).context("USHER_LISTEN makes no address")
}

/// The user, and the session of a session event.
fn subject(data: &Value) -> String {
    let text = |field: &str| data[field].as_str().unwrap_or_default();
    let mut about = match text("user_id") {
        "" => text("id").to_owned(),
        user_id => format!("{user_id}, {}", text("id")),
    };
    let user = if data["user"].is_object() { &data["user"] } else { data };
    for address in user["email_addresses"].as_array().into_iter().flatten() {
        let verified = if address["verification"]["status"] == "verified" {
            ""
        } else {
            " (unverified)"
        };
        about += &format!(", {}{verified}", address["email_address"].as_str().unwrap_or_default());
    }
    about
}

fn print_sent(kind: EventKind, about: &str, delivery: &Delivery, forged: bool) {
    let kind = paint(STRONG, kind);
    let forged = if forged { ", with a forged signature," } else { "" };
    let way = paint(FAINT, format!("as {} to {}", delivery.webhook.svix_id, delivery.url));
    println!("sent      {kind} of {about}{forged} {way}");
}

fn print_answer(answer: StatusCode, body: &str) {
    let reason = answer.canonical_reason().unwrap_or_default();
    println!("answered  {} {reason} {}", status(answer), body.trim());
}

fn unsent(error: &reqwest::Error, url: &Url) -> anyhow::Error {
    let origin = url.origin().ascii_serialization();
    if error.is_connect() {
        anyhow::anyhow!("nothing answers at {origin}: is usher running? Start it with: usher serve")
    } else if error.is_timeout() {
        anyhow::anyhow!("usher at {origin} did not answer in time")
    } else {
        anyhow::anyhow!("the connection to {origin} broke")
    }
}

/// A forged event must be refused, every other one accepted.
fn judge(answer: StatusCode, forged: bool) -> anyhow::Result<()> {
    match (forged, answer) {
        (true, StatusCode::UNAUTHORIZED) => Ok(()),
        (true, _) => bail!("a forged event must be answered 401"),
        (false, answer) if answer.is_success() => Ok(()),
        (false, StatusCode::UNAUTHORIZED) => bail!(
            "the signature was refused: usher serves with another CLERK_WEBHOOK_SIGNING_SECRET than this command has, \
             or their clocks differ"
        ),
        (false, _) => bail!("usher did not take the event"),
    }
}

impl Token {
    fn print(&self, config: &Config, now: DateTime<Utc>) -> anyhow::Result<()> {
        let signer = development_signer(config)?;
        let user_id = self.who.user_id();
        let session_id = self.session.clone().unwrap_or_else(|| session_id(&user_id));
        let sign_in = SignIn {
            user_id: &user_id,
            session_id: &session_id,
            issuer: config.clerk_issuer.as_deref().unwrap_or(DevSecrets::ISSUER),
            party: config.authorized_parties.first().map(String::as_str),
        };
        let lifetime = self.lifetime.unwrap_or(TimeDelta::seconds(60));
        println!("{}", sign_in.token(&signer, now, lifetime)?);
        Ok(())
    }
}

/// The key that signs instead of Clerk's, if usher accepts it.
fn development_signer(config: &Config) -> anyhow::Result<DevSigner> {
    ensure!(
        config.environment == Environment::Development,
        "session tokens are signed in development only; in production Clerk signs them"
    );
    let secrets = DevSecrets::load_or_generate(Path::new(VAR))?;
    let signer = DevSigner::from_pkcs8_pem(&secrets.session_key)?;
    ensure!(
        config.session_keys == Some(SessionKeySource::Pem(signer.public_pem()?)),
        "CLERK_JWT_KEY or CLERK_ISSUER is set, so usher takes Clerk's session tokens only; leave both out to use these"
    );
    Ok(signer)
}

fn duration(text: &str) -> Result<TimeDelta, &'static str> {
    parse_duration(text).ok_or("must be a duration such as 30d, 36h or 10m")
}
