//! The output of `usher config`: all settings in force, without secrets.

use super::masked::{addresses, text_or_address};
use super::values::{shown_age, shown_drain_time, shown_limit, shown_number};
use super::{Config, Environment, EventEndpoint, MailRoute, OpsProxy, SessionKeySource};
use crate::api_key::ApiKey;

impl Config {
    /// All settings by their variables' names, secrets masked.
    #[must_use]
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        let masked = |count: usize| vec!["****"; count].join(",");
        let shown = |address: Option<&str>| address.map(addresses).unwrap_or_default();
        let or_none = |value: Option<String>| value.unwrap_or_default();
        let smtp = match &self.mail_route {
            MailRoute::Smtp(url) => addresses(url.expose()),
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
            ("USHER_DATABASE_URL", addresses(self.database_url.expose())),
            ("USHER_DATABASE_CONNECTIONS", self.connections.to_string()),
            ("USHER_LISTEN", self.listen.to_string()),
            ("USHER_PUBLIC_URL", shown(self.public_url.as_deref())),
            ("USHER_ADMIN_LISTEN", self.admin_listen.to_string()),
            ("USHER_DRAIN_TIME", shown_drain_time(self.drain_time)),
            ("USHER_MAX_CONNECTIONS", self.max_connections.to_string()),
            ("CLERK_WEBHOOK_SIGNING_SECRET", masked(self.signing_secrets.len())),
            ("CLERK_JWT_KEY", jwt_key.to_owned()),
            ("CLERK_ISSUER", shown(self.clerk_issuer.as_deref())),
            ("CLERK_AUTHORIZED_PARTIES", self.authorized_parties.join(",")),
            (
                "CLERK_PUBLISHABLE_KEY",
                or_none(self.clerk_publishable_key.as_ref().map(|key| key.key.clone())),
            ),
            ("CLERK_SECRET_KEY", masked(usize::from(self.clerk_secret_key.is_some()))),
            ("CLERK_API_URL", addresses(&self.clerk_api_url)),
            (
                "USHER_API_KEYS",
                self.api_keys
                    .iter()
                    .map(ApiKey::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            ("USHER_OPS_KEYS", self.ops_keys.to_string()),
            ("USHER_OPS_HOSTS", self.ops_hosts.join(",")),
            (
                "USHER_OPS_USER_HEADER",
                or_none(self.ops_proxy.as_ref().map(OpsProxy::shown_header)),
            ),
            (
                "USHER_OPS_USER_PROXIES",
                or_none(self.ops_proxy.as_ref().map(OpsProxy::shown_networks)),
            ),
            ("USHER_RATE_LIMIT", shown_limit(self.rate_limit)),
            ("USHER_RATE_LIMIT_PERSON", shown_limit(self.rate_limit_person)),
            ("USHER_RATE_LIMIT_ADDRESS", shown_limit(self.rate_limit_address)),
            ("USHER_TRUSTED_PROXIES", self.trusted_proxies.to_string()),
            ("USHER_TOKEN_KEY", masked(self.token_keys.len())),
            ("SMTP_URL", smtp),
            ("SMTP_RATE", shown_number(self.smtp_rate)),
            ("SMTP_HELO_NAME", or_none(self.smtp_helo_name.clone())),
            ("MAIL_FROM", self.mail_from.clone()),
            ("MAIL_REPLY_TO", or_none(self.mail_reply_to.clone())),
            ("MAIL_UNSUBSCRIBE", shown(self.mail_unsubscribe.as_deref())),
            ("MAIL_DEFAULT_LOCALE", self.mail_default_locale.clone()),
            ("APP_NAME", self.app_name.clone()),
            ("APP_URL", shown(self.app_url.as_deref())),
            ("REDIRECT_URLS", self.redirects.names().join(",")),
            ("INVITE_URL", addresses(&self.invite_url.0)),
            ("AUTO_ACCEPT", self.auto_accept.as_str().to_owned()),
            ("INVITE_TTL", shown_age(self.invite_ttl)),
            ("INVITE_REMINDERS", self.invite_reminders.to_string()),
            ("MAIL_CAP_INVITER", shown_number(self.mail_caps.inviter)),
            ("MAIL_CAP_ORGANIZATION", shown_number(self.mail_caps.organization)),
            ("MAIL_CAP_ADDRESS", shown_number(self.mail_caps.address)),
            ("ORGANIZATION_ROLES", self.roles.organization.to_string()),
            ("PROJECT_ROLES", self.roles.project.to_string()),
            (
                "ORGANIZATION_INVITE_ROLE",
                self.roles.organization_invite_role().to_owned(),
            ),
            ("PROJECT_INVITE_ROLE", self.roles.project_invite_role().to_owned()),
            (
                "USHER_SYNC_PROFILES",
                if self.sync_profiles { "on" } else { "off" }.to_owned(),
            ),
            ("USHER_IDENTITIES", self.identities.place().to_owned()),
            ("USHER_IDENTITY_PROVIDER", self.identities.provider().to_owned()),
            (
                "USHER_IDENTITY_ISSUERS",
                self.identities
                    .issuers()
                    .iter()
                    .map(|issuer| text_or_address(issuer))
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            (
                "TEMPLATES_DIR",
                or_none(self.templates_dir.as_ref().map(|folder| folder.display().to_string())),
            ),
            (
                "USHER_EVENTS",
                self.event_endpoints
                    .iter()
                    .map(shown_endpoint)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            ("USHER_EVENTS_SECRET", masked(self.event_secrets.len())),
            ("USHER_KEEP_PAYLOADS", shown_age(self.retention.payloads)),
            ("USHER_KEEP_EVENTS", shown_age(self.retention.events)),
            ("USHER_KEEP_JOBS", shown_age(self.retention.jobs)),
            ("USHER_KEEP_DEAD_JOBS", shown_age(self.retention.dead_jobs)),
            ("USHER_KEEP_DELIVERIES", shown_age(self.retention.deliveries)),
            ("USHER_KEEP_OUTGOING", shown_age(self.retention.outgoing)),
            (
                "USHER_KEEP_IDEMPOTENCY_KEYS",
                shown_age(self.retention.idempotency_keys),
            ),
            ("USHER_KEEP_AUDIT", shown_age(self.retention.audit)),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                shown(self.telemetry.collector.as_deref()),
            ),
            ("LOG_FORMAT", self.telemetry.format.as_str().to_owned()),
            (
                "RUST_LOG",
                or_none(self.telemetry.filter.as_ref().map(ToString::to_string)),
            ),
        ]
    }
}

impl OpsProxy {
    fn shown_header(&self) -> String {
        format!("{}:{}", self.header, self.role)
    }

    fn shown_networks(&self) -> String {
        let networks: Vec<String> = self.networks.iter().map(ToString::to_string).collect();
        networks.join(",")
    }
}

fn shown_endpoint(endpoint: &EventEndpoint) -> String {
    let types: Vec<&str> = endpoint.types.iter().map(|event_type| event_type.as_str()).collect();
    let colon = if types.is_empty() { "" } else { ":" };
    format!(
        "{}{colon}{}={}",
        endpoint.name,
        types.join("+"),
        addresses(endpoint.url.as_str())
    )
}
