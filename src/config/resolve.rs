//! From what was given to what is in force.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;

use super::values::{
    address, age, drain_time, list, non_empty, number_or_off, parse_duration, parsed, rate_limit, url,
};
use super::{
    Config, ConfigError, DevSecrets, Environment, InviteUrl, LogFormat, MailRoute, Retention, SessionKeySource,
    Settings, VAR, wrong,
};
use crate::api_key::ApiKey;
use crate::clerk::DevSigner;
use crate::invites::limits::{DEFAULT_TTL, MAX_TTL, MailCaps};
use crate::invites::reminders::Reminders;
use crate::invites::roles::{Ladder, Roles};
use crate::secret::Secret;
use crate::store::{Dialect, Identities};

/// Characters, for every secret that is compared or derived from.
const MIN_SECRET: usize = 32;

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
