//! From settings to the configuration in force. All errors are returned at once.

mod board;
mod clerk;
mod events;
mod invites;
mod mail;
mod pages;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use chrono::TimeDelta;

use super::clerk_values;
use super::dev_secrets;
use super::error::{ConfigError, ConfigErrors, Problems, wrong};
use super::values::{
    address, age, database_connections, drain_time, list, max_connections, number_or_off, parsed, rate_limit, url,
};
use super::{Config, DevSecrets, Environment, MailRoute, Retention, Settings, Telemetry, VAR};
use crate::api_key::ApiKey;
use crate::invites::roles::Roles;
use crate::secret::Secret;
use crate::store::{Layout, check_address};
use crate::telemetry::{LogFilter, LogFormat};

/// In characters, for every secret.
const MIN_SECRET: usize = 32;
const CLERK_API: &str = "https://api.clerk.com";
/// Replaces an invalid address until all errors are returned.
const UNUSED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Settings {
    /// How logs and traces are written, needed before the rest.
    pub fn telemetry(&self) -> Result<Telemetry, ConfigErrors> {
        let mut problems = Problems::default();
        let telemetry = self.read_telemetry(&mut problems);
        problems.end(telemetry)
    }

    fn read_telemetry(&self, problems: &mut Problems) -> Telemetry {
        let collector = self.otel_exporter_otlp_endpoint.clone();
        let is_address = collector
            .as_deref()
            .map(|text| url("OTEL_EXPORTER_OTLP_ENDPOINT", text));
        problems.check(is_address.transpose().map(drop));
        Telemetry {
            format: problems.or_default(match self.log_format.as_deref() {
                None | Some("text") => Ok(LogFormat::Text),
                Some("json") => Ok(LogFormat::Json),
                Some(_) => Err(wrong("LOG_FORMAT", "must be text or json")),
            }),
            filter: problems.or_default(
                self.rust_log
                    .as_deref()
                    .map(str::parse::<LogFilter>)
                    .transpose()
                    .map_err(|problem| wrong("RUST_LOG", problem)),
            ),
            collector,
        }
    }

    /// Where the data lives: all that commands need which look at it and change nothing else.
    pub fn database(&self) -> Result<(Secret, Layout), ConfigErrors> {
        Ok((self.database_in(Path::new(VAR))?, self.layout()?))
    }

    /// Both orders of roles, and who invites: what tells whether an invite lets somebody in.
    pub fn role_rules(&self) -> Result<Roles, ConfigErrors> {
        let mut all = Problems::default();
        let roles = self.roles(&mut all);
        all.end(roles)
    }

    /// Reads and checks all settings; in development, generates missing secrets.
    pub fn resolve(self) -> Result<Config, ConfigErrors> {
        self.resolve_in(Path::new(VAR))
    }

    /// [`Settings::resolve`] with development's folder somewhere else.
    pub fn resolve_in(self, var: &Path) -> Result<Config, ConfigErrors> {
        let mut all = Problems::default();
        let environment = all.or(self.environment(), Environment::Production);
        let dev = match environment {
            // If this failed, every missing secret would be an error of its own.
            Environment::Development => Some(DevSecrets::load_or_generate(var)?),
            Environment::Production => None,
        };
        let dev = dev.as_ref();
        let issuer = all.or_default(self.issuer());
        let listen = all.or(
            address("USHER_LISTEN", self.usher_listen.as_deref(), "127.0.0.1:8080"),
            UNUSED,
        );
        let admin_listen = all.or(
            address(
                "USHER_ADMIN_LISTEN",
                self.usher_admin_listen.as_deref(),
                "127.0.0.1:9090",
            ),
            UNUSED,
        );
        let event_endpoints = all.or_default(self.event_endpoints([listen, admin_listen]));
        let public_url = all.or_default(self.public_url(environment, listen));
        let invite_url = all.or_default(self.invite_url(public_url.as_deref()));
        let mut authorized_parties = self.authorized_parties(&mut all);
        let page_origins = pages::page_origins(environment, &authorized_parties, public_url.as_deref(), &invite_url);
        if !authorized_parties.is_empty() {
            authorized_parties.clone_from(&page_origins);
        }
        let api_keys = all.or_default(self.api_keys(dev));
        let ops_keys = all.or_default(self.ops_keys(&api_keys));
        let ops_proxy = all.or_default(self.ops_proxy());
        let opens_by_link = environment == Environment::Development
            && admin_listen.ip().is_loopback()
            && ops_keys.is_empty()
            && ops_proxy.is_none();
        let config = Config {
            environment,
            database_url: all.or_default(self.database_in(var)),
            listen,
            public_url,
            admin_listen,
            drain_time: all.or_default(drain_time(environment, self.usher_drain_time.as_deref())),
            max_connections: all.or_default(max_connections(self.usher_max_connections.as_deref())),
            signing_secrets: all.or_default(self.signing_secrets(dev)),
            session_keys: all.or_default(self.session_keys(issuer.as_ref(), dev)),
            clerk_issuer: issuer
                .map(|issuer| issuer.name)
                .or_else(|| self.development_issuer(dev)),
            authorized_parties,
            page_origins,
            clerk_publishable_key: all.or_default(self.publishable_key()),
            fake_clerk_key: self.fake_clerk_key(dev),
            clerk_secret_key: all.or_default(self.clerk_secret_key()),
            clerk_api_url: all.or_default(clerk_values::api_url(
                self.clerk_api_url.as_deref().unwrap_or(CLERK_API),
            )),
            ops_keys,
            development_ops_key: opens_by_link.then(dev_secrets::ops_key),
            ops_proxy,
            ops_hosts: all.or_default(self.ops_hosts()),
            api_keys,
            rate_limit: all.or_default(rate_limit(
                "USHER_RATE_LIMIT",
                self.usher_rate_limit.as_deref(),
                "6000/m",
            )),
            rate_limit_person: all.or_default(rate_limit(
                "USHER_RATE_LIMIT_PERSON",
                self.usher_rate_limit_person.as_deref(),
                "120/m",
            )),
            rate_limit_address: all.or_default(rate_limit(
                "USHER_RATE_LIMIT_ADDRESS",
                self.usher_rate_limit_address.as_deref(),
                "120/m",
            )),
            trusted_proxies: all.or_default(
                self.usher_trusted_proxies
                    .as_deref()
                    .unwrap_or("0")
                    .parse()
                    .map_err(|_| wrong("USHER_TRUSTED_PROXIES", "must be a number such as 0 or 1")),
            ),
            token_keys: all.or_default(self.token_keys(dev)),
            mail_route: all.or(self.mail_route(environment, var), MailRoute::Outbox(PathBuf::new())),
            smtp_rate: all.or_default(number_or_off("SMTP_RATE", self.smtp_rate.as_deref(), None)),
            smtp_helo_name: self.smtp_helo_name.clone(),
            mail_from: all.or_default(self.mail_from(environment)),
            mail_reply_to: self.mail_reply_to.clone(),
            mail_unsubscribe: self.mail_unsubscribe.clone(),
            mail_default_locale: self.mail_default_locale().to_owned(),
            app_name: self.app_name.clone().unwrap_or_else(|| "usher".to_owned()),
            app_url: all.or_default(self.app_url()),
            redirects: self.redirects(environment, &mut all),
            invite_url,
            auto_accept: all.or_default(parsed("AUTO_ACCEPT", self.auto_accept.as_deref())),
            invite_ttl: all.or_default(self.invite_ttl()),
            invite_reminders: all.or_default(self.invite_reminders()),
            mail_caps: self.mail_caps(&mut all),
            roles: self.roles(&mut all),
            layout: all.or_default(self.layout()),
            connections: all.or_default(database_connections(self.usher_database_connections.as_deref())),
            identities: all.or_default(self.identities()),
            sync_profiles: all.or_default(self.sync_profiles()),
            templates_dir: self.templates_dir.clone(),
            event_secrets: all.or_default(self.event_secrets(!event_endpoints.is_empty(), dev)),
            event_endpoints,
            retention: self.retention(&mut all),
            telemetry: self.read_telemetry(&mut all),
        };
        if let Some(name) = &config.smtp_helo_name
            && !usher_mail::is_helo_name(name)
        {
            all.add(wrong(
                "SMTP_HELO_NAME",
                "must be a full host name like mail.example.com, or an address like [192.0.2.1]",
            ));
        }
        for problem in config.mail().problems() {
            // A missing one is empty here, and already has an error.
            if !all.name(problem.variable()) {
                all.add(wrong(problem.variable(), problem.without_variable()));
            }
        }
        if !all.is_empty() {
            // Without errors the start reads the templates anyway; with errors, report theirs in the same list.
            all.check(self.templates());
        }
        all.end(config)
    }

    fn retention(&self, all: &mut Problems) -> Retention {
        let mut kept =
            |variable, given: &Option<String>, default| all.or_default(age(variable, given.as_deref(), default));
        let retention = Retention {
            payloads: kept("USHER_KEEP_PAYLOADS", &self.usher_keep_payloads, "7d"),
            events: kept("USHER_KEEP_EVENTS", &self.usher_keep_events, "90d"),
            jobs: kept("USHER_KEEP_JOBS", &self.usher_keep_jobs, "7d"),
            dead_jobs: kept("USHER_KEEP_DEAD_JOBS", &self.usher_keep_dead_jobs, "90d"),
            deliveries: kept("USHER_KEEP_DELIVERIES", &self.usher_keep_deliveries, "365d"),
            outgoing: kept("USHER_KEEP_OUTGOING", &self.usher_keep_outgoing, "30d"),
            idempotency_keys: kept("USHER_KEEP_IDEMPOTENCY_KEYS", &self.usher_keep_idempotency_keys, "2d"),
            audit: kept("USHER_KEEP_AUDIT", &self.usher_keep_audit, "365d"),
        };
        // An invalid one is zero here, and already has an error.
        if retention.payloads > retention.events && !retention.events.is_zero() {
            all.add(wrong(
                "USHER_KEEP_PAYLOADS",
                "must not be longer than USHER_KEEP_EVENTS",
            ));
        }
        if retention.idempotency_keys < TimeDelta::days(1) && !retention.idempotency_keys.is_zero() {
            all.add(wrong("USHER_KEEP_IDEMPOTENCY_KEYS", "must be at least 1d"));
        }
        retention
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

    fn database_in(&self, var: &Path) -> Result<Secret, ConfigError> {
        let (variable, given) = match (&self.usher_database_url, &self.database_url) {
            (None, Some(url)) => ("DATABASE_URL", url.clone()),
            (Some(url), _) => ("USHER_DATABASE_URL", url.clone()),
            (None, None) => {
                let default = format!("sqlite://{}", var.join("usher.db").display());
                ("USHER_DATABASE_URL", Secret::from(default))
            }
        };
        check_address(given.expose()).map_err(|problem| wrong(variable, problem))?;
        Ok(given)
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

    fn token_keys(&self, dev: Option<&DevSecrets>) -> Result<Vec<Secret>, ConfigError> {
        const VARIABLE: &str = "USHER_TOKEN_KEY";
        let keys = match (&self.usher_token_key, dev) {
            (Some(given), _) => list(Some(given.expose())),
            (None, Some(dev)) => vec![dev.token_key.clone()],
            (None, None) => Vec::new(),
        };
        if keys.is_empty() {
            return Err(wrong(VARIABLE, "is missing; make one with: openssl rand -hex 32"));
        }
        if let Some(at) = keys.iter().position(|key| key.chars().count() < MIN_SECRET) {
            let which = if keys.len() == 1 {
                String::new()
            } else {
                format!("entry {} ", at + 1)
            };
            let problem = format!("{which}must have at least 32 characters; make one with: openssl rand -hex 32");
            return Err(wrong(VARIABLE, problem));
        }
        Ok(keys.into_iter().map(Secret::from).collect())
    }
}
