//! The configuration: one struct, and the only reader of the environment.
//!
//! - `settings`: what can be given. `sources`: flags, the environment, and `dotenv`. `unknown`: misspelt names.
//! - `resolve`: what that comes to, and `error`: what is wrong with it. `values`, `clerk_values`: single values.
//! - `dev_secrets`: what development generates. `shown`: what `usher config` prints, and `masked`: what it doesn't.

mod clerk_values;
mod dev_secrets;
mod dotenv;
mod error;
mod masked;
mod resolve;
mod settings;
mod shown;
mod sources;
mod unknown;
mod values;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use url::{Position, Url};
use uuid::Uuid;

pub use dev_secrets::DevSecrets;
pub use dotenv::{DotEnv, DotEnvError};
pub use error::{ConfigError, ConfigErrors};
pub use settings::Settings;
pub use sources::{variable, without_environment};
pub use unknown::warn_of_unknown_variables;
pub use values::parse_duration;

use crate::api_key::ApiKey;
use crate::invites::limits::MailCaps;
use crate::invites::matching::AutoAccept;
use crate::invites::reminders::Reminders;
use crate::invites::roles::Roles;
use crate::rate_limit::RateLimit;
use crate::secret::Secret;
use crate::store::{Identities, Rules};
use crate::telemetry::{LogFilter, LogFormat};
use usher_mail::{MailConfig, TransportConfig};

/// Where development keeps its database, secrets and mails.
pub const VAR: &str = "var";

/// What is in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// Development or production.
    pub environment: Environment,
    /// The database's address.
    pub database_url: Secret,
    /// The public address.
    pub listen: SocketAddr,
    /// The private address.
    pub admin_listen: SocketAddr,
    /// How long requests are still taken once the end was asked for.
    pub drain_time: Duration,
    /// How many connections the public address has at most.
    pub max_connections: usize,
    /// The webhook's signing secrets, at least one.
    pub signing_secrets: Vec<Secret>,
    /// How session tokens are verified; without it nobody can use `/v1/me`.
    pub session_keys: Option<SessionKeySource>,
    /// The issuer that session tokens must name, where one is configured: without a slash at its end.
    pub clerk_issuer: Option<String>,
    /// The origins that session tokens may be issued for, as browsers write them; empty for any.
    pub authorized_parties: Vec<String>,
    /// The key for Clerk's Backend API.
    pub clerk_secret_key: Option<Secret>,
    /// Clerk's Backend API.
    pub clerk_api_url: String,
    /// The keys that the app calls the API with, at least one.
    pub api_keys: Vec<ApiKey>,
    /// How often each API key may call; `None` for as often as it likes.
    pub rate_limit: Option<RateLimit>,
    /// How often each signed-in person may call.
    pub rate_limit_person: Option<RateLimit>,
    /// How often each address may call what is open to everybody, or fail to say who it is.
    pub rate_limit_address: Option<RateLimit>,
    /// How many proxies stand between the clients and usher.
    pub trusted_proxies: usize,
    /// The secrets that invite links are derived from: the first makes them, each is taken.
    pub token_keys: Vec<Secret>,
    /// Where mails go.
    pub mail_route: MailRoute,
    /// Mails that this process sends in a second at most; `None` for as many as it can.
    pub smtp_rate: Option<NonZeroU32>,
    /// `SMTP_HELO_NAME`.
    pub smtp_helo_name: Option<String>,
    /// The sender.
    pub mail_from: String,
    /// Where answers go.
    pub mail_reply_to: Option<String>,
    /// Where people can have further invites to them stopped.
    pub mail_unsubscribe: Option<String>,
    /// The language of mails where nothing better is known.
    pub mail_default_locale: String,
    /// What the app is called in mails.
    pub app_name: String,
    /// The app's page that invite links lead to.
    pub invite_url: InviteUrl,
    /// Who is let in without being asked.
    pub auto_accept: AutoAccept,
    /// How long an invite is valid.
    pub invite_ttl: TimeDelta,
    /// When invites are called to mind.
    pub invite_reminders: Reminders,
    /// How many invite mails may be asked for on a day.
    pub mail_caps: MailCaps,
    /// Both orders of roles.
    pub roles: Roles,
    /// Where an app on the same Postgres keeps Clerk's user ids.
    pub identities: Identities,
    /// Templates that take the place of the built-in ones.
    pub templates_dir: Option<PathBuf>,
    /// For how long what is done with is kept.
    pub retention: Retention,
    /// How logs and traces are written.
    pub telemetry: Telemetry,
}

/// How logs and traces are written.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// The format of the log.
    pub format: LogFormat,
    /// What is logged, where somebody said so.
    pub filter: Option<LogFilter>,
    /// The collector for traces.
    pub collector: Option<String>,
}

/// For how long what is done with is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The bodies of processed events.
    pub payloads: TimeDelta,
    /// Processed events.
    pub events: TimeDelta,
    /// Finished jobs.
    pub jobs: TimeDelta,
    /// Dead jobs.
    pub dead_jobs: TimeDelta,
    /// The records of mails.
    pub deliveries: TimeDelta,
    /// Answers under their `Idempotency-Key`.
    pub idempotency_keys: TimeDelta,
}

impl Config {
    /// What the mailer needs to know of it.
    #[must_use]
    pub fn mail(&self) -> MailConfig {
        MailConfig {
            from: self.mail_from.clone(),
            reply_to: self.mail_reply_to.clone(),
            transport: match &self.mail_route {
                MailRoute::Smtp(url) => TransportConfig::Smtp {
                    url: url.expose().to_owned(),
                },
                MailRoute::Outbox(dir) => TransportConfig::Outbox { dir: dir.clone() },
            },
            templates_dir: self.templates_dir.clone(),
            default_locale: self.mail_default_locale.clone(),
            unsubscribe: self.mail_unsubscribe.clone(),
        }
    }

    /// What the database needs to know of it.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            roles: self.roles.clone(),
            invite_ttl: self.invite_ttl,
            mail_caps: self.mail_caps,
            mail_domain: usher_mail::message_domain(&self.mail_from).unwrap_or_else(|| Rules::NO_DOMAIN.to_owned()),
            identities: self.identities.clone(),
        }
    }
}

/// Development or production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Missing secrets are generated once and kept; mails go to files.
    Development,
    /// Nothing is generated, nothing is skipped.
    Production,
}

/// Where the keys for session tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionKeySource {
    /// A PEM public key.
    Pem(String),
    /// The issuer's JWKS.
    Jwks(Url),
}

/// Where mails go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailRoute {
    /// To a mail server.
    Smtp(Secret),
    /// To files in a folder.
    Outbox(PathBuf),
}

/// An address with a place for the token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InviteUrl(String);

impl InviteUrl {
    const PLACE: &str = "{token}";

    /// The link for one token.
    #[must_use]
    pub fn link(&self, token: &str) -> String {
        self.0.replace(Self::PLACE, token)
    }
}

impl FromStr for InviteUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains(Self::PLACE) {
            return Err("must contain {token}");
        }
        let with = |token| Url::parse(&text.replace(Self::PLACE, token));
        match (with("one"), with("two")) {
            // A host has no capitals, and tokens do.
            (Ok(one), Ok(two)) if one[..Position::AfterPort] != two[..Position::AfterPort] => {
                Err("must have {token} in its path, its query or after its #")
            }
            (Ok(url), Ok(_)) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Self(text.to_owned())),
            _ => Err("must be an http:// or https:// address"),
        }
    }
}

/// A fresh name for this process's workers: a name used again right after a kill strands its rows (APALIS trap 2).
#[must_use]
pub fn process_name() -> String {
    format!("usher-{}", Uuid::from_bytes(rand::random::<[u8; 16]>()).simple())
}
