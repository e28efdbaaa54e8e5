//! What `usher config` prints: everything in force, and no secret.

use url::Url;

use super::values::{shown_age, shown_drain_time, shown_limit, shown_number};
use super::{Config, Environment, MailRoute, SessionKeySource};
use crate::api_key::ApiKey;

impl Config {
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
