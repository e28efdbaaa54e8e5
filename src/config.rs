//! The configuration: one struct, and the only reader of the environment.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use crate::api_key::{ApiKey, hex};
use crate::clerk::DevSigner;
use crate::invites::limits::{DEFAULT_TTL, MAX_TTL, MailCaps};
use crate::invites::matching::AutoAccept;
use crate::invites::reminders::Reminders;
use crate::invites::roles::{Ladder, Roles};
use crate::mail;
use crate::rate_limit::RateLimit;
use crate::secret::Secret;
use crate::store::{Dialect, Identities, Rules};

/// Characters, for every secret that is compared or derived from.
const MIN_SECRET: usize = 32;
/// Where development keeps its database, secrets and mails.
pub const VAR: &str = "var";

/// Everything that can be set, by environment variable, `.env`, or a flag of the same name.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Settings {
    /// `development` generates missing secrets and writes mails to files; `production` insists on everything. Default:
    /// development while no database address is given.
    #[arg(long, env = "USHER_ENV", global = true, value_name = "development|production")]
    pub usher_env: Option<String>,
    /// Where the data lives: `postgres://…` or `sqlite://path`. Default: `sqlite://var/usher.db`.
    #[arg(
        long,
        env = "USHER_DATABASE_URL",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub usher_database_url: Option<Secret>,
    /// Taken where `USHER_DATABASE_URL` is absent.
    #[arg(
        long,
        env = "DATABASE_URL",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: Option<Secret>,
    /// The public address that webhooks and the app come to. Default: `127.0.0.1:8080`.
    #[arg(long, env = "USHER_LISTEN", global = true, value_name = "ADDRESS:PORT")]
    pub usher_listen: Option<String>,
    /// The private address for health and metrics. Default: `127.0.0.1:9090`.
    #[arg(long, env = "USHER_ADMIN_LISTEN", global = true, value_name = "ADDRESS:PORT")]
    pub usher_admin_listen: Option<String>,
    /// How long a process that is asked to end goes on taking requests while `/readyz` already says that it stops, such
    /// as `10s` (at most `5m`), or `off`: longer than your load balancer needs to notice. Default: `5s`; in development
    /// `off`.
    #[arg(long, env = "USHER_DRAIN_TIME", global = true, value_name = "DURATION")]
    pub usher_drain_time: Option<String>,
    /// How many connections the public address has at most; one more closes one that keeps it waiting. The private
    /// address has its own. Default: `16384`, or as many as the limit of open files leaves room for.
    #[arg(long, env = "USHER_MAX_CONNECTIONS", global = true, value_name = "NUMBER")]
    pub usher_max_connections: Option<String>,
    /// The webhook's signing secrets (`whsec_…`), comma-separated: two while one is being rotated.
    #[arg(
        long,
        env = "CLERK_WEBHOOK_SIGNING_SECRET",
        global = true,
        hide_env_values = true,
        value_name = "SECRETS"
    )]
    pub clerk_webhook_signing_secret: Option<Secret>,
    /// The old name of `CLERK_WEBHOOK_SIGNING_SECRET`, taken with a warning.
    #[arg(
        long,
        env = "CLERK_WEBHOOK_SECRET",
        global = true,
        hide_env_values = true,
        value_name = "SECRETS"
    )]
    pub clerk_webhook_secret: Option<Secret>,
    /// The PEM public key that Clerk's session tokens are verified with.
    #[arg(long, env = "CLERK_JWT_KEY", global = true, value_name = "PEM")]
    pub clerk_jwt_key: Option<String>,
    /// Clerk's Frontend API address: the tokens' issuer, and where the keys are fetched without `CLERK_JWT_KEY`.
    #[arg(long, env = "CLERK_ISSUER", global = true, value_name = "URL")]
    pub clerk_issuer: Option<String>,
    /// Origins of the app that session tokens may be issued for, comma-separated. Default: any. Pages of these, and no
    /// others, may call `/v1/me` from the browser.
    #[arg(long, env = "CLERK_AUTHORIZED_PARTIES", global = true, value_name = "ORIGINS")]
    pub clerk_authorized_parties: Option<String>,
    /// The key for Clerk's Backend API, asked for people whom no webhook has told of yet.
    #[arg(
        long,
        env = "CLERK_SECRET_KEY",
        global = true,
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub clerk_secret_key: Option<Secret>,
    /// Clerk's Backend API. Default: `https://api.clerk.com`.
    #[arg(long, env = "CLERK_API_URL", global = true, value_name = "URL")]
    pub clerk_api_url: Option<String>,
    /// The keys that the app calls the API with, comma-separated: a key of at least 32 characters, `name:key`, or
    /// `name:sha256:hash` (`usher api-key` makes both). `@` and the ids of organizations, joined by `+`, limit it to them.
    #[arg(
        long,
        env = "USHER_API_KEYS",
        global = true,
        hide_env_values = true,
        value_name = "KEYS"
    )]
    pub usher_api_keys: Option<Secret>,
    /// How often each API key may call, such as `600/m` (`s`, `m` or `h`; a batch is one call), or `off`. Each process
    /// counts for itself. Default: `6000/m`.
    #[arg(long, env = "USHER_RATE_LIMIT", global = true, value_name = "CALLS/PERIOD")]
    pub usher_rate_limit: Option<String>,
    /// How often each signed-in person may call. Default: `120/m`.
    #[arg(long, env = "USHER_RATE_LIMIT_PERSON", global = true, value_name = "CALLS/PERIOD")]
    pub usher_rate_limit_person: Option<String>,
    /// How often each client address may open `/v1/invite-links` or send credentials that are none. Default: `120/m`.
    #[arg(long, env = "USHER_RATE_LIMIT_ADDRESS", global = true, value_name = "CALLS/PERIOD")]
    pub usher_rate_limit_address: Option<String>,
    /// How many proxies of yours a request passes: the client's address is taken from `X-Forwarded-For` by so many steps
    /// from its right. Default: `0`, the header is not believed.
    #[arg(long, env = "USHER_TRUSTED_PROXIES", global = true, value_name = "NUMBER")]
    pub usher_trusted_proxies: Option<String>,
    /// The secret that invite links are derived from, at least 32 characters.
    #[arg(
        long,
        env = "USHER_TOKEN_KEY",
        global = true,
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub usher_token_key: Option<Secret>,
    /// The mail server: `smtp://user:password@host:587?tls=required` or `smtps://…`. Development without it writes
    /// mails to `var/outbox/`.
    #[arg(long, env = "SMTP_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub smtp_url: Option<Secret>,
    /// How many mails a second each process sends at most, or `off`. Default: `off`.
    #[arg(long, env = "SMTP_RATE", global = true, value_name = "MAILS")]
    pub smtp_rate: Option<String>,
    /// The sender of all mails: `Name <address>`.
    #[arg(long, env = "MAIL_FROM", global = true, value_name = "MAILBOX")]
    pub mail_from: Option<String>,
    /// Where answers to mails go. Default: to the sender.
    #[arg(long, env = "MAIL_REPLY_TO", global = true, value_name = "MAILBOX")]
    pub mail_reply_to: Option<String>,
    /// Where people can have further invites to them stopped: a `mailto:` or `https://` address, or both with a comma
    /// between; `{email}` stands for the reader's address. It becomes the `List-Unsubscribe` of invites and reminders.
    #[arg(long, env = "MAIL_UNSUBSCRIBE", global = true, value_name = "ADDRESSES")]
    pub mail_unsubscribe: Option<String>,
    /// The language of mails to people whose own is not known, or has no templates. Default: `en`.
    #[arg(long, env = "MAIL_DEFAULT_LOCALE", global = true, value_name = "LANGUAGE")]
    pub mail_default_locale: Option<String>,
    /// What the app is called in mails. Default: `usher`.
    #[arg(long, env = "APP_NAME", global = true, value_name = "NAME")]
    pub app_name: Option<String>,
    /// The app's page that invite links lead to; `{token}` stands for the token.
    #[arg(long, env = "INVITE_URL", global = true, value_name = "URL")]
    pub invite_url: Option<String>,
    /// Who is let in without being asked: `new-users` (created after the invite), `always` or `never`. Default:
    /// `new-users`.
    #[arg(long, env = "AUTO_ACCEPT", global = true, value_name = "POLICY")]
    pub auto_accept: Option<String>,
    /// How long an invite is valid, such as `7d`, `36h` or `90m`; at most `30d`. Default: `7d`.
    #[arg(long, env = "INVITE_TTL", global = true, value_name = "DURATION")]
    pub invite_ttl: Option<String>,
    /// After which parts of an invite's life its address is reminded, such as `1/2`, or `off`. Default: `1/3,2/3`.
    #[arg(long, env = "INVITE_REMINDERS", global = true, value_name = "FRACTIONS")]
    pub invite_reminders: Option<String>,
    /// How many invite mails an inviter may ask for on a day (UTC), or `off`. Default: `2000`.
    #[arg(long, env = "MAIL_CAP_INVITER", global = true, value_name = "MAILS")]
    pub mail_cap_inviter: Option<String>,
    /// How many invite mails may be asked for on a day into one organization and its projects, or `off`. Default:
    /// `10000`.
    #[arg(long, env = "MAIL_CAP_ORGANIZATION", global = true, value_name = "MAILS")]
    pub mail_cap_organization: Option<String>,
    /// The organization roles, low to high. Default: `member,admin,owner`.
    #[arg(long, env = "ORGANIZATION_ROLES", global = true, value_name = "ROLES")]
    pub organization_roles: Option<String>,
    /// The project roles, low to high. Default: `support,client,editor,admin`.
    #[arg(long, env = "PROJECT_ROLES", global = true, value_name = "ROLES")]
    pub project_roles: Option<String>,
    /// Where an app on the same Postgres keeps Clerk's user ids: `admins.external_id`, or a table of its own,
    /// `admin_identities`. Default: `admins.external_id`.
    #[arg(long, env = "USHER_IDENTITIES", global = true, value_name = "PLACE")]
    pub usher_identities: Option<String>,
    /// What `admin_identities.provider` says of Clerk users. Default: `clerk`.
    #[arg(long, env = "USHER_IDENTITY_PROVIDER", global = true, value_name = "NAME")]
    pub usher_identity_provider: Option<String>,
    /// What `admin_identities.issuer` says of Clerk users. Default: `CLERK_ISSUER`.
    #[arg(long, env = "USHER_IDENTITY_ISSUER", global = true, value_name = "ISSUER")]
    pub usher_identity_issuer: Option<String>,
    /// A folder whose files take the place of the built-in mail templates of the same name, or add languages to them.
    #[arg(long, env = "TEMPLATES_DIR", global = true, value_name = "FOLDER")]
    pub templates_dir: Option<PathBuf>,
    /// For how long the bodies of processed events are kept, such as `7d`. Default: `7d`.
    #[arg(long, env = "USHER_KEEP_PAYLOADS", global = true, value_name = "AGE")]
    pub usher_keep_payloads: Option<String>,
    /// For how long processed events are remembered without their bodies; Clerk's repetitions are known by them. Default:
    /// `90d`.
    #[arg(long, env = "USHER_KEEP_EVENTS", global = true, value_name = "AGE")]
    pub usher_keep_events: Option<String>,
    /// For how long finished jobs are kept. Default: `7d`.
    #[arg(long, env = "USHER_KEEP_JOBS", global = true, value_name = "AGE")]
    pub usher_keep_jobs: Option<String>,
    /// For how long dead jobs wait for somebody who repairs them. Default: `90d`.
    #[arg(long, env = "USHER_KEEP_DEAD_JOBS", global = true, value_name = "AGE")]
    pub usher_keep_dead_jobs: Option<String>,
    /// For how long the record of a mail is kept with its invite. Default: `365d`.
    #[arg(long, env = "USHER_KEEP_DELIVERIES", global = true, value_name = "AGE")]
    pub usher_keep_deliveries: Option<String>,
    /// For how long answers are kept under their `Idempotency-Key`; they are given again for a day, so at least `1d`.
    /// Default: `2d`.
    #[arg(long, env = "USHER_KEEP_IDEMPOTENCY_KEYS", global = true, value_name = "AGE")]
    pub usher_keep_idempotency_keys: Option<String>,
    /// The OpenTelemetry collector that traces are sent to, over OTLP/HTTP: `http://host:4318`. Default: none.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otel_exporter_otlp_endpoint: Option<String>,
    /// `text` or `json`. Default: `text`.
    #[arg(long, env = "LOG_FORMAT", global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What is logged, in the syntax of `tracing`. Default: `info`.
    #[arg(long, env = "RUST_LOG", global = true, value_name = "FILTER")]
    pub rust_log: Option<String>,
}

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
    /// The issuer that session tokens must name, where one is configured.
    pub clerk_issuer: Option<String>,
    /// The origins that session tokens may be issued for; empty for any.
    pub authorized_parties: Vec<String>,
    /// The key for Clerk's Backend API.
    pub clerk_secret_key: Option<Secret>,
    /// Clerk's Backend API.
    pub clerk_api_url: Url,
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
    /// The secret that invite links are derived from.
    pub token_key: Secret,
    /// Where mails go.
    pub mail_route: MailRoute,
    /// Mails that this process sends in a second at most; `None` for as many as it can.
    pub smtp_rate: Option<NonZeroU32>,
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
    /// Both ladders of roles.
    pub roles: Roles,
    /// Where an app on the same Postgres keeps Clerk's user ids.
    pub identities: Identities,
    /// Templates that take the place of the built-in ones.
    pub templates_dir: Option<PathBuf>,
    /// For how long what is done with is kept.
    pub retention: Retention,
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
    /// What the database needs to know of it.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            roles: self.roles.clone(),
            invite_ttl: self.invite_ttl,
            mail_caps: self.mail_caps,
            mail_domain: mail::message_domain(&self.mail_from).unwrap_or_else(|| Rules::NO_DOMAIN.to_owned()),
            identities: self.identities.clone(),
        }
    }

    /// Every setting by its variable's name, secrets masked.
    #[must_use]
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        let masked = |count: usize| vec!["****"; count].join(",");
        let or_none = |value: Option<String>| value.unwrap_or_default();
        let smtp = match &self.mail_route {
            MailRoute::Smtp(url) => without_password(url.expose()),
            MailRoute::Outbox(folder) => format!("(none: mails go to {})", folder.display()),
        };
        let jwt_key = match &self.session_keys {
            Some(SessionKeySource::Pem(_)) => "(a PEM key)",
            Some(SessionKeySource::Jwks(_)) => "(none: the issuer's keys are fetched)",
            None => "(none: nobody can use /v1/me)",
        };
        vec![
            (
                "USHER_ENV",
                if self.environment == Environment::Production {
                    "production"
                } else {
                    "development"
                }
                .to_owned(),
            ),
            ("USHER_DATABASE_URL", without_password(self.database_url.expose())),
            ("USHER_LISTEN", self.listen.to_string()),
            ("USHER_ADMIN_LISTEN", self.admin_listen.to_string()),
            ("USHER_DRAIN_TIME", shown_drain_time(self.drain_time)),
            ("USHER_MAX_CONNECTIONS", self.max_connections.to_string()),
            ("CLERK_WEBHOOK_SIGNING_SECRET", masked(self.signing_secrets.len())),
            ("CLERK_JWT_KEY", jwt_key.to_owned()),
            ("CLERK_ISSUER", or_none(self.clerk_issuer.clone())),
            ("CLERK_AUTHORIZED_PARTIES", self.authorized_parties.join(",")),
            ("CLERK_SECRET_KEY", masked(usize::from(self.clerk_secret_key.is_some()))),
            ("CLERK_API_URL", self.clerk_api_url.to_string()),
            (
                "USHER_API_KEYS",
                self.api_keys
                    .iter()
                    .map(ApiKey::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            ("USHER_RATE_LIMIT", shown_limit(self.rate_limit)),
            ("USHER_RATE_LIMIT_PERSON", shown_limit(self.rate_limit_person)),
            ("USHER_RATE_LIMIT_ADDRESS", shown_limit(self.rate_limit_address)),
            ("USHER_TRUSTED_PROXIES", self.trusted_proxies.to_string()),
            ("USHER_TOKEN_KEY", masked(1)),
            ("SMTP_URL", smtp),
            ("SMTP_RATE", shown_number(self.smtp_rate)),
            ("MAIL_FROM", self.mail_from.clone()),
            ("MAIL_REPLY_TO", or_none(self.mail_reply_to.clone())),
            ("MAIL_UNSUBSCRIBE", or_none(self.mail_unsubscribe.clone())),
            ("MAIL_DEFAULT_LOCALE", self.mail_default_locale.clone()),
            ("APP_NAME", self.app_name.clone()),
            ("INVITE_URL", self.invite_url.0.clone()),
            ("AUTO_ACCEPT", self.auto_accept.as_str().to_owned()),
            ("INVITE_TTL", shown_age(self.invite_ttl)),
            ("INVITE_REMINDERS", self.invite_reminders.to_string()),
            ("MAIL_CAP_INVITER", shown_number(self.mail_caps.inviter)),
            ("MAIL_CAP_ORGANIZATION", shown_number(self.mail_caps.organization)),
            ("ORGANIZATION_ROLES", self.roles.organization.to_string()),
            ("PROJECT_ROLES", self.roles.project.to_string()),
            ("USHER_IDENTITIES", self.identities.place().to_owned()),
            ("USHER_IDENTITY_PROVIDER", self.identities.provider().to_owned()),
            ("USHER_IDENTITY_ISSUER", self.identities.issuer().to_owned()),
            (
                "TEMPLATES_DIR",
                or_none(self.templates_dir.as_ref().map(|folder| folder.display().to_string())),
            ),
            ("USHER_KEEP_PAYLOADS", shown_age(self.retention.payloads)),
            ("USHER_KEEP_EVENTS", shown_age(self.retention.events)),
            ("USHER_KEEP_JOBS", shown_age(self.retention.jobs)),
            ("USHER_KEEP_DEAD_JOBS", shown_age(self.retention.dead_jobs)),
            ("USHER_KEEP_DELIVERIES", shown_age(self.retention.deliveries)),
            (
                "USHER_KEEP_IDEMPOTENCY_KEYS",
                shown_age(self.retention.idempotency_keys),
            ),
        ]
    }
}

/// An address without its password. One that can't be understood is not shown at all.
fn without_password(address: &str) -> String {
    let Ok(mut url) = Url::parse(address) else {
        return "****".to_owned();
    };
    if url.password().is_some() {
        let _ = url.set_password(Some("****"));
    }
    url.to_string()
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

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, one object a line.
    Json,
}

/// An address with a place for the token.
#[derive(Debug, Clone, PartialEq, Eq)]
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
        match Url::parse(&text.replace(Self::PLACE, "token")) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Self(text.to_owned())),
            _ => Err("must be an http:// or https:// address"),
        }
    }
}

/// A setting that can't be used, named so that the sentence says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    /// The environment variable.
    pub variable: &'static str,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

fn wrong(variable: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError {
        variable,
        problem: problem.into(),
    }
}

/// Secrets that development generates once and keeps.
#[derive(Debug, Serialize, Deserialize)]
pub struct DevSecrets {
    /// A webhook signing secret.
    pub signing_secret: String,
    /// An API key.
    pub api_key: String,
    /// The key for links.
    pub token_key: String,
    /// The private key that development's session tokens are signed with, in Clerk's place.
    pub session_key: String,
}

impl DevSecrets {
    /// The issuer of development's session tokens.
    pub const ISSUER: &str = "https://clerk.usher.localhost";

    /// Reads the secrets from `folder`, or generates them there for its owner's eyes only.
    ///
    /// # Errors
    /// [`ConfigError`] when the file can't be read or written.
    pub fn load_or_generate(folder: &Path) -> Result<Self, ConfigError> {
        let path = folder.join("dev-secrets.json");
        let problem = |what: &str, error: &dyn std::fmt::Display| {
            wrong(
                "USHER_ENV",
                format!("is development, but {} could not be {what}: {error}", path.display()),
            )
        };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| problem("read", &error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let secrets = Self::generate().map_err(|error| problem("generated", &error))?;
                secrets
                    .write(folder, &path)
                    .map_err(|error| problem("written", &error))?;
                Ok(secrets)
            }
            Err(error) => Err(problem("read", &error)),
        }
    }

    /// Fresh ones.
    ///
    /// # Errors
    /// When the key pair can't be generated.
    pub fn generate() -> Result<Self, crate::clerk::SigningError> {
        let signer = DevSigner::generate()?;
        Ok(Self {
            signing_secret: format!("whsec_{}", STANDARD.encode(random_bytes())),
            api_key: format!("dev_{}", hex(&random_bytes())),
            token_key: hex(&random_bytes()),
            session_key: signer.to_pkcs8_pem()?,
        })
    }

    fn write(&self, folder: &Path, path: &Path) -> std::io::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::create_dir_all(folder)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)
    }
}

/// 32 bytes from the system's generator.
fn random_bytes() -> [u8; 32] {
    rand::random()
}

impl Settings {
    /// The format of the log, needed before the rest.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn log_format(&self) -> Result<LogFormat, ConfigError> {
        match self.log_format.as_deref() {
            None | Some("text") => Ok(LogFormat::Text),
            Some("json") => Ok(LogFormat::Json),
            Some(_) => Err(wrong("LOG_FORMAT", "must be text or json")),
        }
    }

    /// The language of mails where nothing better is known, needed before the rest.
    #[must_use]
    pub fn mail_default_locale(&self) -> &str {
        self.mail_default_locale.as_deref().unwrap_or("en")
    }

    /// The address of the collector for traces, needed before the rest.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn collector(&self) -> Result<Option<&str>, ConfigError> {
        let given = self.otel_exporter_otlp_endpoint.as_deref();
        if let Some(text) = given {
            url("OTEL_EXPORTER_OTLP_ENDPOINT", text)?;
        }
        Ok(given)
    }

    /// Reads and checks everything, fills in what development generates.
    ///
    /// # Errors
    /// [`ConfigError`] names the first variable that is missing or wrong.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        self.resolve_in(Path::new(VAR))
    }

    /// [`Settings::resolve`] with development's folder somewhere else.
    ///
    /// # Errors
    /// As [`Settings::resolve`].
    pub fn resolve_in(self, var: &Path) -> Result<Config, ConfigError> {
        let environment = self.environment()?;
        let dev = match environment {
            Environment::Development => Some(DevSecrets::load_or_generate(var)?),
            Environment::Production => None,
        };
        let session = self.session_keys(dev.as_ref())?;
        Ok(Config {
            environment,
            database_url: self.database(var)?,
            listen: address("USHER_LISTEN", self.usher_listen.as_deref(), "127.0.0.1:8080")?,
            admin_listen: address(
                "USHER_ADMIN_LISTEN",
                self.usher_admin_listen.as_deref(),
                "127.0.0.1:9090",
            )?,
            drain_time: drain_time(environment, self.usher_drain_time.as_deref())?,
            max_connections: max_connections(self.usher_max_connections.as_deref())?,
            signing_secrets: self.signing_secrets(dev.as_ref())?,
            clerk_issuer: self.issuer(dev.as_ref()),
            session_keys: session,
            authorized_parties: list(self.clerk_authorized_parties.as_deref()),
            clerk_secret_key: non_empty("CLERK_SECRET_KEY", self.clerk_secret_key.clone())?,
            clerk_api_url: url(
                "CLERK_API_URL",
                self.clerk_api_url.as_deref().unwrap_or("https://api.clerk.com"),
            )?,
            api_keys: self.api_keys(dev.as_ref())?,
            rate_limit: rate_limit("USHER_RATE_LIMIT", self.usher_rate_limit.as_deref(), "6000/m")?,
            rate_limit_person: rate_limit(
                "USHER_RATE_LIMIT_PERSON",
                self.usher_rate_limit_person.as_deref(),
                "120/m",
            )?,
            rate_limit_address: rate_limit(
                "USHER_RATE_LIMIT_ADDRESS",
                self.usher_rate_limit_address.as_deref(),
                "120/m",
            )?,
            trusted_proxies: self
                .usher_trusted_proxies
                .as_deref()
                .unwrap_or("0")
                .parse()
                .map_err(|_| wrong("USHER_TRUSTED_PROXIES", "must be a number such as 0 or 1"))?,
            token_key: self.token_key(dev.as_ref())?,
            mail_route: self.mail_route(environment, var)?,
            smtp_rate: number_or_off("SMTP_RATE", self.smtp_rate.as_deref(), None)?,
            mail_from: self.mail_from(environment)?,
            mail_reply_to: self.mail_reply_to.clone(),
            mail_unsubscribe: self.mail_unsubscribe.clone(),
            mail_default_locale: self.mail_default_locale().to_owned(),
            app_name: self.app_name.clone().unwrap_or_else(|| "usher".to_owned()),
            invite_url: self.invite_url(environment)?,
            auto_accept: parsed("AUTO_ACCEPT", self.auto_accept.as_deref())?,
            invite_ttl: self.invite_ttl()?,
            invite_reminders: self.invite_reminders()?,
            mail_caps: self.mail_caps()?,
            roles: self.roles()?,
            identities: self.identities()?,
            templates_dir: self.templates_dir.clone(),
            retention: self.retention()?,
        })
    }

    fn retention(&self) -> Result<Retention, ConfigError> {
        let events = age("USHER_KEEP_EVENTS", self.usher_keep_events.as_deref(), "90d")?;
        let payloads = age("USHER_KEEP_PAYLOADS", self.usher_keep_payloads.as_deref(), "7d")?;
        if payloads > events {
            return Err(wrong(
                "USHER_KEEP_PAYLOADS",
                "must not be longer than USHER_KEEP_EVENTS",
            ));
        }
        let idempotency_keys = age(
            "USHER_KEEP_IDEMPOTENCY_KEYS",
            self.usher_keep_idempotency_keys.as_deref(),
            "2d",
        )?;
        if idempotency_keys < TimeDelta::days(1) {
            return Err(wrong("USHER_KEEP_IDEMPOTENCY_KEYS", "must be at least 1d"));
        }
        Ok(Retention {
            payloads,
            events,
            jobs: age("USHER_KEEP_JOBS", self.usher_keep_jobs.as_deref(), "7d")?,
            dead_jobs: age("USHER_KEEP_DEAD_JOBS", self.usher_keep_dead_jobs.as_deref(), "90d")?,
            deliveries: age("USHER_KEEP_DELIVERIES", self.usher_keep_deliveries.as_deref(), "365d")?,
            idempotency_keys,
        })
    }

    fn environment(&self) -> Result<Environment, ConfigError> {
        match self.usher_env.as_deref() {
            Some("development") => Ok(Environment::Development),
            Some("production") => Ok(Environment::Production),
            Some(_) => Err(wrong("USHER_ENV", "must be development or production")),
            None if self.usher_database_url.is_none() && self.database_url.is_none() => Ok(Environment::Development),
            None => Ok(Environment::Production),
        }
    }

    fn database(&self, var: &Path) -> Result<Secret, ConfigError> {
        let Some(url) = self.usher_database_url.clone().or(self.database_url.clone()) else {
            return Ok(Secret::from(format!("sqlite://{}", var.join("usher.db").display())));
        };
        match Dialect::of(url.expose()) {
            Some(_) => Ok(url),
            None => Err(wrong("USHER_DATABASE_URL", "must begin with postgres:// or sqlite://")),
        }
    }

    fn signing_secrets(&self, dev: Option<&DevSecrets>) -> Result<Vec<Secret>, ConfigError> {
        const VARIABLE: &str = "CLERK_WEBHOOK_SIGNING_SECRET";
        let given = match (&self.clerk_webhook_signing_secret, &self.clerk_webhook_secret) {
            (Some(given), _) => Some(given),
            (None, Some(old)) => {
                tracing::warn!("CLERK_WEBHOOK_SECRET is the old name; call it {VARIABLE}");
                Some(old)
            }
            (None, None) => None,
        };
        let secrets = match (given, dev) {
            (Some(given), _) => list(Some(given.expose())),
            (None, Some(dev)) => vec![dev.signing_secret.clone()],
            (None, None) => Vec::new(),
        };
        if secrets.is_empty() {
            return Err(wrong(
                VARIABLE,
                "is missing; Clerk's dashboard shows it with the webhook's endpoint",
            ));
        }
        for secret in &secrets {
            let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret));
            if !key.is_ok_and(|key| key.len() >= 16) {
                return Err(wrong(
                    VARIABLE,
                    "must be whsec_ and base64, as Clerk's dashboard shows it",
                ));
            }
        }
        Ok(secrets.into_iter().map(Secret::from).collect())
    }

    fn session_keys(&self, dev: Option<&DevSecrets>) -> Result<Option<SessionKeySource>, ConfigError> {
        if let Some(pem) = &self.clerk_jwt_key {
            return Ok(Some(SessionKeySource::Pem(pem.clone())));
        }
        if let Some(issuer) = &self.clerk_issuer {
            return Ok(Some(SessionKeySource::Jwks(url("CLERK_ISSUER", issuer)?)));
        }
        let Some(dev) = dev else { return Ok(None) };
        let pem = DevSigner::from_pkcs8_pem(&dev.session_key)
            .and_then(|signer| signer.public_pem())
            .map_err(|error| {
                wrong(
                    "USHER_ENV",
                    format!("is development, but its session key is broken: {error}"),
                )
            })?;
        Ok(Some(SessionKeySource::Pem(pem)))
    }

    fn issuer(&self, dev: Option<&DevSecrets>) -> Option<String> {
        let development = dev
            .filter(|_| self.clerk_jwt_key.is_none())
            .map(|_| DevSecrets::ISSUER.to_owned());
        self.clerk_issuer.clone().or(development)
    }

    fn api_keys(&self, dev: Option<&DevSecrets>) -> Result<Vec<ApiKey>, ConfigError> {
        let keys = match (&self.usher_api_keys, dev) {
            (Some(given), _) => ApiKey::parse_list(given.expose())
                .map_err(|(position, error)| wrong("USHER_API_KEYS", format!("entry {position} {error}")))?,
            (None, Some(dev)) => vec![ApiKey::new("development", &dev.api_key)],
            (None, None) => Vec::new(),
        };
        if keys.is_empty() {
            return Err(wrong("USHER_API_KEYS", "is missing; make one with: usher api-key"));
        }
        Ok(keys)
    }

    fn token_key(&self, dev: Option<&DevSecrets>) -> Result<Secret, ConfigError> {
        match (&self.usher_token_key, dev) {
            (Some(given), _) if given.expose().len() >= MIN_SECRET => Ok(given.clone()),
            (None, Some(dev)) => Ok(Secret::from(dev.token_key.clone())),
            _ => Err(wrong(
                "USHER_TOKEN_KEY",
                "must have at least 32 characters; make one with: openssl rand -hex 32",
            )),
        }
    }

    fn mail_route(&self, environment: Environment, var: &Path) -> Result<MailRoute, ConfigError> {
        match (&self.smtp_url, environment) {
            (Some(url), _)
                if ["smtp://", "smtps://"]
                    .iter()
                    .any(|scheme| url.expose().starts_with(scheme)) =>
            {
                Ok(MailRoute::Smtp(url.clone()))
            }
            (Some(_), _) => Err(wrong("SMTP_URL", "must begin with smtp:// or smtps://")),
            (None, Environment::Development) => Ok(MailRoute::Outbox(var.join("outbox"))),
            (None, Environment::Production) => Err(wrong(
                "SMTP_URL",
                "is missing; it looks like smtp://user:password@host:587?tls=required",
            )),
        }
    }

    fn mail_from(&self, environment: Environment) -> Result<String, ConfigError> {
        match (&self.mail_from, environment) {
            (Some(from), _) => Ok(from.clone()),
            (None, Environment::Development) => Ok("usher <usher@localhost.localdomain>".to_owned()),
            (None, Environment::Production) => Err(wrong(
                "MAIL_FROM",
                "is missing; it looks like: Example <no-reply@example.com>",
            )),
        }
    }

    fn invite_url(&self, environment: Environment) -> Result<InviteUrl, ConfigError> {
        match (self.invite_url.as_deref(), environment) {
            (Some(text), _) => text.parse().map_err(|problem: &str| wrong("INVITE_URL", problem)),
            (None, Environment::Development) => Ok(InviteUrl("http://localhost:3000/invite#{token}".to_owned())),
            (None, Environment::Production) => Err(wrong(
                "INVITE_URL",
                "is missing; it looks like https://app.example.com/invite#{token}",
            )),
        }
    }

    fn invite_ttl(&self) -> Result<TimeDelta, ConfigError> {
        let ttl = self
            .invite_ttl
            .as_deref()
            .map_or(Some(DEFAULT_TTL), parse_duration)
            .ok_or_else(|| wrong("INVITE_TTL", "must be a duration such as 7d, 36h or 90m"))?;
        if ttl > MAX_TTL {
            return Err(wrong("INVITE_TTL", "must be at most 30d"));
        }
        Ok(ttl)
    }

    fn invite_reminders(&self) -> Result<Reminders, ConfigError> {
        match self.invite_reminders.as_deref() {
            None => Ok(Reminders::default()),
            Some(text) => text.parse().map_err(|problem: &str| wrong("INVITE_REMINDERS", problem)),
        }
    }

    fn mail_caps(&self) -> Result<MailCaps, ConfigError> {
        let default = MailCaps::default();
        let organization = self.mail_cap_organization.as_deref();
        Ok(MailCaps {
            inviter: number_or_off("MAIL_CAP_INVITER", self.mail_cap_inviter.as_deref(), default.inviter)?,
            organization: number_or_off("MAIL_CAP_ORGANIZATION", organization, default.organization)?,
        })
    }

    fn identities(&self) -> Result<Identities, ConfigError> {
        match self.usher_identities.as_deref() {
            None | Some(Identities::EXTERNAL_ID) => Ok(Identities::ExternalId),
            Some(Identities::TABLE) => Ok(Identities::Table {
                provider: self
                    .usher_identity_provider
                    .clone()
                    .unwrap_or_else(|| "clerk".to_owned()),
                issuer: self
                    .usher_identity_issuer
                    .clone()
                    .or_else(|| self.clerk_issuer.clone())
                    .ok_or_else(|| {
                        wrong(
                            "USHER_IDENTITY_ISSUER",
                            "is missing; it is what admin_identities.issuer says of Clerk users",
                        )
                    })?,
            }),
            Some(_) => Err(wrong(
                "USHER_IDENTITIES",
                "must be admins.external_id or admin_identities",
            )),
        }
    }

    fn roles(&self) -> Result<Roles, ConfigError> {
        let default = Roles::default();
        let ladder = |variable, given: &Option<String>, default| match given {
            Some(text) => text
                .parse::<Ladder>()
                .map_err(|error| wrong(variable, error.to_string())),
            None => Ok(default),
        };
        Ok(Roles {
            organization: ladder("ORGANIZATION_ROLES", &self.organization_roles, default.organization)?,
            project: ladder("PROJECT_ROLES", &self.project_roles, default.project)?,
        })
    }
}

/// Reads `90m`, `36h` or `7d`: whole minutes, hours or days, more than none.
#[must_use]
pub fn parse_duration(text: &str) -> Option<TimeDelta> {
    let unit = text.chars().last()?;
    let digits = text
        .strip_suffix(unit)
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    let number: i64 = digits.parse().ok().filter(|&n| n > 0)?;
    match unit {
        'm' => TimeDelta::try_minutes(number),
        'h' => TimeDelta::try_hours(number),
        'd' => TimeDelta::try_days(number),
        _ => None,
    }
}

/// The longest that anything is kept: ten years, so that no time in the past is out of range.
const MAX_AGE: TimeDelta = TimeDelta::days(3650);

fn age(variable: &'static str, given: Option<&str>, default: &str) -> Result<TimeDelta, ConfigError> {
    parse_duration(given.unwrap_or(default))
        .filter(|age| *age <= MAX_AGE)
        .ok_or_else(|| wrong(variable, "must be an age such as 90m, 36h or 7d, at most 3650d"))
}

/// The longest drain: no orchestrator that waits longer for an end has been met.
const MAX_DRAIN: Duration = Duration::from_secs(300);

fn drain_time(environment: Environment, given: Option<&str>) -> Result<Duration, ConfigError> {
    let (number, unit) = match given {
        None if environment == Environment::Production => (5, 1),
        None | Some("off") => (0, 1),
        Some(text) => match (text.strip_suffix('s'), text.strip_suffix('m')) {
            (Some(seconds), _) => (seconds.parse().unwrap_or(u64::MAX), 1),
            (_, Some(minutes)) => (minutes.parse().unwrap_or(u64::MAX), 60),
            (None, None) => (u64::MAX, 1),
        },
    };
    Some(Duration::from_secs(number.saturating_mul(unit)))
        .filter(|time| *time <= MAX_DRAIN)
        .ok_or_else(|| wrong("USHER_DRAIN_TIME", "must be a duration such as 10s, at most 5m, or off"))
}

fn max_connections(given: Option<&str>) -> Result<usize, ConfigError> {
    const VARIABLE: &str = "USHER_MAX_CONNECTIONS";
    let number = given.unwrap_or("16384").parse().ok();
    number
        .filter(|number| (1..=1_000_000).contains(number))
        .ok_or_else(|| wrong(VARIABLE, "must be a number from 1 to 1000000"))
}

fn shown_drain_time(time: Duration) -> String {
    match time.as_secs() {
        0 => "off".to_owned(),
        seconds => format!("{seconds}s"),
    }
}

fn rate_limit(variable: &'static str, given: Option<&str>, default: &str) -> Result<Option<RateLimit>, ConfigError> {
    match given.unwrap_or(default) {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|problem: &str| wrong(variable, problem)),
    }
}

fn number_or_off(
    variable: &'static str,
    given: Option<&str>,
    default: Option<NonZeroU32>,
) -> Result<Option<NonZeroU32>, ConfigError> {
    match given {
        None => Ok(default),
        Some("off") => Ok(None),
        Some(text) => match text.parse::<NonZeroU32>() {
            // What is counted up to it must fit a column.
            Ok(number) if i32::try_from(number.get()).is_ok() => Ok(Some(number)),
            _ => Err(wrong(variable, "must be a number from 1 on, or off")),
        },
    }
}

fn shown_number(number: Option<NonZeroU32>) -> String {
    number.map_or_else(|| "off".to_owned(), |number| number.to_string())
}

fn shown_age(age: TimeDelta) -> String {
    format!("{}m", age.num_minutes())
}

fn shown_limit(limit: Option<RateLimit>) -> String {
    limit.map_or_else(|| "off".to_owned(), |limit| limit.to_string())
}

fn list(text: Option<&str>) -> Vec<String> {
    let items = text.unwrap_or_default().split(',').map(str::trim);
    items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn non_empty(variable: &'static str, secret: Option<Secret>) -> Result<Option<Secret>, ConfigError> {
    match secret {
        Some(secret) if secret.expose().trim().is_empty() => Err(wrong(variable, "is empty; set it or leave it out")),
        secret => Ok(secret),
    }
}

fn address(variable: &'static str, given: Option<&str>, default: &str) -> Result<SocketAddr, ConfigError> {
    given
        .unwrap_or(default)
        .parse()
        .map_err(|_| wrong(variable, "must be an address and a port such as 127.0.0.1:8080"))
}

fn url(variable: &'static str, text: &str) -> Result<Url, ConfigError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| wrong(variable, "must be an http:// or https:// address"))
}

fn parsed<T: FromStr<Err = String> + Default>(variable: &'static str, given: Option<&str>) -> Result<T, ConfigError> {
    given.map_or_else(
        || Ok(T::default()),
        |text| text.parse().map_err(|problem: String| wrong(variable, problem)),
    )
}

/// Variables of the tests, which a developer's shell may have.
const FOR_TESTS: &str = "USHER_TEST_";
/// From here on, two names are one that was misspelt (Jaro-Winkler similarity, from 0 to 1).
const ALIKE: f64 = 0.85;

/// Warns of variables that look like ours and are not: most are misspelt.
pub fn warn_of_unknown_variables() {
    #[expect(clippy::disallowed_methods, reason = "this is the reader of the environment")]
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (name, nearest) in unknown_variables(set) {
        match nearest {
            Some(nearest) => tracing::warn!("{name} is no setting of usher's; did you mean {nearest}?"),
            None => tracing::warn!("{name} is no setting of usher's; usher --help lists them"),
        }
    }
}

/// The names among `set` that begin like ours and that no setting has, each with the one that is most like it.
fn unknown_variables(set: impl Iterator<Item = String>) -> Vec<(String, Option<String>)> {
    let command = <Settings as clap::Args>::augment_args(clap::Command::new("usher"));
    let known: Vec<String> = command
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect();
    let nearest = |name: &str| {
        let alike = |known: &&String| strsim::jaro_winkler(known, name);
        let best = known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
        (alike(&best) >= ALIKE).then(|| best.clone())
    };
    set.filter(|name| name.starts_with("USHER_") && !name.starts_with(FOR_TESTS) && !known.contains(name))
        .map(|name| {
            let nearest = nearest(&name);
            (name, nearest)
        })
        .collect()
}

/// A fresh name for this process's workers: a name used again right after a kill strands its rows (APALIS trap 2).
#[must_use]
pub fn process_name() -> String {
    format!("usher-{}", Uuid::from_bytes(rand::random::<[u8; 16]>()).simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_variables_are_told_with_the_nearest_name() {
        let told = |name: &str| unknown_variables(std::iter::once(name.to_owned()));
        for (name, nearest) in [
            ("USHER_TOKEN_KYE", Some("USHER_TOKEN_KEY")),
            ("USHER_DATABASE_UR", Some("USHER_DATABASE_URL")),
            ("USHER_RATELIMIT", Some("USHER_RATE_LIMIT")),
            ("USHER_LISTENS", Some("USHER_LISTEN")),
            ("USHER_XYZZY", None),
        ] {
            assert_eq!(told(name), [(name.to_owned(), nearest.map(str::to_owned))], "{name}");
        }
        for name in ["USHER_TOKEN_KEY", "USHER_TEST_POSTGRES_URL", "PATH", "usher_listen"] {
            assert!(told(name).is_empty(), "{name}");
        }
    }
}
