//! From settings to the configuration in force. All errors are returned at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;

use super::clerk_values::{self, Issuer};
use super::error::{ConfigError, ConfigErrors, Problems, wrong};
use super::values::{
    address, age, drain_time, list, max_connections, non_empty, number_or_off, parse_duration, parsed, rate_limit, url,
};
use super::{
    Config, DevSecrets, Environment, InviteUrl, MailRoute, Retention, SessionKeySource, Settings, Telemetry, VAR,
};
use crate::api_key::ApiKey;
use crate::invites::limits::{DEFAULT_TTL, MAX_TTL, MailCaps};
use crate::invites::reminders::Reminders;
use crate::invites::roles::{RoleOrder, Roles};
use crate::secret::Secret;
use crate::store::{Identities, check_address};
use crate::telemetry::{LogFilter, LogFormat};
use usher_clerk::{DevSigner, check_public_key};
use usher_mail::Templates;

/// In characters, for every secret.
const MIN_SECRET: usize = 32;
const CLERK_API: &str = "https://api.clerk.com";
/// Replaces an invalid address until all errors are returned.
const UNUSED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Settings {
    /// Needed before the rest.
    #[must_use]
    pub fn mail_default_locale(&self) -> &str {
        self.mail_default_locale.as_deref().unwrap_or("en")
    }

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
    pub fn database(&self) -> Result<Secret, ConfigErrors> {
        Ok(self.database_in(Path::new(VAR))?)
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
        let config = Config {
            environment,
            database_url: all.or_default(self.database_in(var)),
            listen: all.or(
                address("USHER_LISTEN", self.usher_listen.as_deref(), "127.0.0.1:8080"),
                UNUSED,
            ),
            admin_listen: all.or(
                address(
                    "USHER_ADMIN_LISTEN",
                    self.usher_admin_listen.as_deref(),
                    "127.0.0.1:9090",
                ),
                UNUSED,
            ),
            drain_time: all.or_default(drain_time(environment, self.usher_drain_time.as_deref())),
            max_connections: all.or_default(max_connections(self.usher_max_connections.as_deref())),
            signing_secrets: all.or_default(self.signing_secrets(dev)),
            session_keys: all.or_default(self.session_keys(issuer.as_ref(), dev)),
            clerk_issuer: issuer
                .map(|issuer| issuer.name)
                .or_else(|| self.development_issuer(dev)),
            authorized_parties: self.authorized_parties(&mut all),
            clerk_secret_key: all.or_default(self.clerk_secret_key()),
            clerk_api_url: all.or_default(clerk_values::api_url(
                self.clerk_api_url.as_deref().unwrap_or(CLERK_API),
            )),
            api_keys: all.or_default(self.api_keys(dev)),
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
            invite_url: all.or_default(self.invite_url(environment)),
            auto_accept: all.or_default(parsed("AUTO_ACCEPT", self.auto_accept.as_deref())),
            invite_ttl: all.or_default(self.invite_ttl()),
            invite_reminders: all.or_default(self.invite_reminders()),
            mail_caps: self.mail_caps(&mut all),
            roles: self.roles(&mut all),
            identities: all.or_default(self.identities()),
            templates_dir: self.templates_dir.clone(),
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
            idempotency_keys: kept("USHER_KEEP_IDEMPOTENCY_KEYS", &self.usher_keep_idempotency_keys, "2d"),
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

    fn session_keys(
        &self,
        issuer: Option<&Issuer>,
        dev: Option<&DevSecrets>,
    ) -> Result<Option<SessionKeySource>, ConfigError> {
        if let Some(pem) = &self.clerk_jwt_key {
            check_public_key(pem).map_err(|error| wrong("CLERK_JWT_KEY", format!("is {error}")))?;
            return Ok(Some(SessionKeySource::Pem(pem.clone())));
        }
        if self.clerk_issuer.is_some() {
            return Ok(issuer.map(|issuer| SessionKeySource::Jwks(issuer.url.clone())));
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

    fn issuer(&self) -> Result<Option<Issuer>, ConfigError> {
        let keys_are_fetched = self.clerk_jwt_key.is_none();
        let read = |text: &String| clerk_values::issuer(text, keys_are_fetched);
        self.clerk_issuer.as_ref().map(read).transpose()
    }

    fn development_issuer(&self, dev: Option<&DevSecrets>) -> Option<String> {
        dev.filter(|_| self.clerk_jwt_key.is_none())
            .map(|_| DevSecrets::ISSUER.to_owned())
    }

    fn authorized_parties(&self, all: &mut Problems) -> Vec<String> {
        let given = self.clerk_authorized_parties.as_deref().unwrap_or_default();
        clerk_values::origins(given).unwrap_or_else(|problems| {
            problems.into_iter().for_each(|problem| all.add(problem));
            Vec::new()
        })
    }

    fn clerk_secret_key(&self) -> Result<Option<Secret>, ConfigError> {
        const VARIABLE: &str = "CLERK_SECRET_KEY";
        let key = non_empty(VARIABLE, self.clerk_secret_key.clone())?;
        let text = key.as_ref().map(|key| key.expose().trim()).unwrap_or_default();
        if text.starts_with("pk_") || text.starts_with("whsec_") {
            return Err(wrong(
                VARIABLE,
                "is another key of Clerk's; the secret key begins with sk_",
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong(VARIABLE, "holds characters that no key has"));
        }
        Ok(key)
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

    fn mail_caps(&self, all: &mut Problems) -> MailCaps {
        let default = MailCaps::default();
        let (inviter, organization) = (self.mail_cap_inviter.as_deref(), self.mail_cap_organization.as_deref());
        let address = self.mail_cap_address.as_deref();
        MailCaps {
            inviter: all.or_default(number_or_off("MAIL_CAP_INVITER", inviter, default.inviter)),
            organization: all.or_default(number_or_off(
                "MAIL_CAP_ORGANIZATION",
                organization,
                default.organization,
            )),
            address: all.or_default(number_or_off("MAIL_CAP_ADDRESS", address, default.address)),
        }
    }

    fn identities(&self) -> Result<Identities, ConfigError> {
        match self.usher_identities.as_deref() {
            None | Some(Identities::EXTERNAL_ID) => Ok(Identities::ExternalId),
            Some(Identities::TABLE) => Ok(Identities::Table {
                provider: self
                    .usher_identity_provider
                    .clone()
                    .unwrap_or_else(|| "clerk".to_owned()),
                issuer: match &self.usher_identity_issuer {
                    Some(issuer) => issuer.clone(),
                    // An invalid issuer has its own error.
                    None => self.issuer().ok().flatten().map(|issuer| issuer.name).ok_or_else(|| {
                        wrong(
                            "USHER_IDENTITY_ISSUER",
                            "is missing; it is what admin_identities.issuer says of Clerk users",
                        )
                    })?,
                },
            }),
            Some(_) => Err(wrong(
                "USHER_IDENTITIES",
                "must be admins.external_id or admin_identities",
            )),
        }
    }

    fn roles(&self, all: &mut Problems) -> Roles {
        let default = Roles::default();
        let mut order = |variable, given: &Option<String>, default: RoleOrder| match given {
            Some(text) => {
                let read = text
                    .parse::<RoleOrder>()
                    .map_err(|error| wrong(variable, error.to_string()));
                all.or(read, default)
            }
            None => default,
        };
        let mut roles = Roles::new(
            order("ORGANIZATION_ROLES", &self.organization_roles, default.organization),
            order("PROJECT_ROLES", &self.project_roles, default.project),
        );
        if let Some(role) = self.organization_invite_role.as_deref() {
            let must = format!("must be one of ORGANIZATION_ROLES: {}", roles.organization);
            match roles.clone().with_organization_invite_role(role) {
                Some(set) => roles = set,
                None => all.add(wrong("ORGANIZATION_INVITE_ROLE", must)),
            }
        }
        if let Some(role) = self.project_invite_role.as_deref() {
            let must = format!("must be one of PROJECT_ROLES: {}", roles.project);
            match roles.clone().with_project_invite_role(role) {
                Some(set) => roles = set,
                None => all.add(wrong("PROJECT_INVITE_ROLE", must)),
            }
        }
        roles
    }

    fn templates(&self) -> Result<(), ConfigError> {
        let Some(folder) = &self.templates_dir else {
            return Ok(());
        };
        Templates::check(Some(folder), self.mail_default_locale())
            .map(drop)
            .map_err(|errors| {
                let first = errors.0.first().map(ToString::to_string).unwrap_or_default();
                wrong(
                    "TEMPLATES_DIR",
                    format!("has templates that can't be used: {first}; all: usher templates check"),
                )
            })
    }
}
