//! The configuration: one struct, and the only reader of the environment.
//!
//! - `settings`: all settings. `sources`: flags, the environment, and `dotenv`. `unknown`: warns of misspelt names.
//! - `resolve`: from settings to a [`Config`]. `error`: what is wrong. `values`, `clerk_values`: parse single values.
//! - `dev_secrets`: secrets that development generates. `shown`: the output of `usher config`. `masked`: masks its secrets.

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

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use ipnet::IpNet;
use url::{Position, Url};
use uuid::Uuid;

pub use dev_secrets::DevSecrets;
pub use dotenv::{DotEnv, DotEnvError};
pub use error::{ConfigError, ConfigErrors};
pub use settings::Settings;
pub use sources::{login_name, variable, without_environment};
pub use unknown::warn_of_unknown_variables;

use crate::api_key::ApiKey;
use crate::invites::RedirectOrigins;
use crate::invites::limits::MailCaps;
use crate::invites::matching::AutoAccept;
use crate::invites::reminders::Reminders;
use crate::invites::roles::Roles;
use crate::ops_key::{OpsKeys, OpsRole};
use crate::rate_limit::RateLimit;
use crate::secret::Secret;
use crate::store::{Connections, EventType, Identities, Layout, Rules};
use crate::telemetry::{LogFilter, LogFormat};
use usher_mail::{MailConfig, TransportConfig};

/// Where development stores its database, secrets and mails.
pub const VAR: &str = "var";

/// The configuration in force.
#[derive(Debug, Clone)]
pub struct Config {
    pub environment: Environment,
    pub database_url: Secret,
    pub listen: SocketAddr,
    /// Where browsers reach usher, without a slash at the end.
    pub public_url: Option<String>,
    pub admin_listen: SocketAddr,
    /// How long requests are still served after the process was asked to stop.
    pub drain_time: Duration,
    /// Of the public address.
    pub max_connections: usize,
    /// Of the webhook, at least one.
    pub signing_secrets: Vec<Secret>,
    /// How session tokens are verified. Without it `/v1/me` refuses every token.
    pub session_keys: Option<SessionKeySource>,
    /// The issuer that session tokens must name, if configured: without a slash at the end.
    pub clerk_issuer: Option<String>,
    /// The origins that session tokens may be issued for, as browsers send them; empty means any.
    pub authorized_parties: Vec<String>,
    /// The origins whose pages may call from the browser.
    pub page_origins: Vec<String>,
    pub clerk_publishable_key: Option<PublishableKey>,
    /// The key that signs session tokens instead of Clerk's, if usher accepts it: in development without Clerk.
    pub fake_clerk_key: Option<Secret>,
    pub clerk_secret_key: Option<Secret>,
    pub clerk_api_url: String,
    /// At least one.
    pub api_keys: Vec<ApiKey>,
    /// Without any, the board only looks.
    pub ops_keys: OpsKeys,
    /// The key of the link to the board that development prints; a new one at each start.
    pub development_ops_key: Option<Secret>,
    /// Signs operators in before they reach the board.
    pub ops_proxy: Option<OpsProxy>,
    /// Names under which browsers may reach the board.
    pub ops_hosts: Vec<String>,
    /// Per API key. `None` means no limit.
    pub rate_limit: Option<RateLimit>,
    pub rate_limit_person: Option<RateLimit>,
    /// Per client address, for calls without valid credentials.
    pub rate_limit_address: Option<RateLimit>,
    /// The number of proxies between the clients and usher.
    pub trusted_proxies: usize,
    /// The secrets that invite links are derived from. The first creates links; links of all are accepted.
    pub token_keys: Vec<Secret>,
    pub mail_route: MailRoute,
    /// Mails per second and process. `None` means no limit.
    pub smtp_rate: Option<NonZeroU32>,
    pub smtp_helo_name: Option<String>,
    pub mail_from: String,
    pub mail_reply_to: Option<String>,
    pub mail_unsubscribe: Option<String>,
    pub mail_default_locale: String,
    pub app_name: String,
    /// Where the accept page leads after accepting.
    pub app_url: Option<String>,
    /// Where an invite may lead instead.
    pub redirects: RedirectOrigins,
    pub invite_url: InviteUrl,
    pub auto_accept: AutoAccept,
    pub invite_ttl: TimeDelta,
    pub invite_reminders: Reminders,
    pub mail_caps: MailCaps,
    pub roles: Roles,
    pub layout: Layout,
    /// To Postgres.
    pub connections: Connections,
    pub identities: Identities,
    /// Whether Clerk's names and addresses are written over those in an app's `admins`.
    pub sync_profiles: bool,
    pub templates_dir: Option<PathBuf>,
    /// Where events are sent.
    pub event_endpoints: Vec<EventEndpoint>,
    /// What they are signed with; at least one if there are endpoints.
    pub event_secrets: Vec<Secret>,
    pub retention: Retention,
    pub telemetry: Telemetry,
}

/// Where the app is told what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventEndpoint {
    /// Its identity.
    pub name: String,
    pub url: Url,
    /// The types of events that it gets; all, if empty.
    pub types: Vec<EventType>,
}

impl EventEndpoint {
    /// Whether it gets events of this type.
    #[must_use]
    pub fn wants(&self, event_type: EventType) -> bool {
        self.types.is_empty() || self.types.contains(&event_type)
    }
}

/// A proxy that signs operators in and names them to the board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpsProxy {
    /// The header with the name, in lower case.
    pub header: String,
    /// What those who are named may do.
    pub role: OpsRole,
    /// From where it calls.
    networks: Vec<IpNet>,
}

impl OpsProxy {
    /// Whether an address is the proxy's.
    #[must_use]
    pub fn calls_from(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }
}

/// How logs and traces are written.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    pub format: LogFormat,
    pub filter: Option<LogFilter>,
    /// The URL of the collector for traces.
    pub collector: Option<String>,
}

/// How long old rows are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The bodies of processed events.
    pub payloads: TimeDelta,
    /// Processed events, without their bodies.
    pub events: TimeDelta,
    /// Finished jobs.
    pub jobs: TimeDelta,
    pub dead_jobs: TimeDelta,
    /// The records of mails, and the history of invites that are not open.
    pub deliveries: TimeDelta,
    /// Events for the app.
    pub outgoing: TimeDelta,
    pub idempotency_keys: TimeDelta,
    /// What was changed by hand.
    pub audit: TimeDelta,
}

impl Config {
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

    /// The rules that the SQL interface also applies.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            roles: self.roles.clone(),
            invite_ttl: self.invite_ttl,
            mail_caps: self.mail_caps,
            mail_domain: usher_mail::message_domain(&self.mail_from).unwrap_or_else(|| Rules::NO_DOMAIN.to_owned()),
            identities: self.identities.clone(),
            sync_profiles: self.sync_profiles,
            redirects: self.redirects.clone(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Missing secrets are generated once and stored; mails are written to files.
    Development,
    /// Nothing is generated; required settings must be set.
    Production,
}

/// The source of the keys for session tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionKeySource {
    /// A PEM public key.
    Pem(String),
    /// The issuer's JWKS.
    Jwks(Url),
}

/// Clerk's publishable key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishableKey {
    pub key: String,
    /// The host of Clerk's Frontend API, which the key names.
    pub frontend_api: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailRoute {
    Smtp(Secret),
    /// To files in this folder.
    Outbox(PathBuf),
}

/// A URL with a placeholder for the token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InviteUrl(String);

impl InviteUrl {
    const PLACE: &str = "{token}";

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
            // A host is not case-sensitive, and tokens are.
            (Ok(one), Ok(two)) if one[..Position::AfterPort] != two[..Position::AfterPort] => {
                Err("must have {token} in its path, its query or after its #")
            }
            (Ok(url), Ok(_)) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Self(text.to_owned())),
            _ => Err("must be an http:// or https:// address"),
        }
    }
}

/// A new name for this process's workers. If a name is used again right after a kill, apalis leaves the old jobs locked.
#[must_use]
pub fn process_name() -> String {
    format!("usher-{}", Uuid::from_bytes(rand::random::<[u8; 16]>()).simple())
}
