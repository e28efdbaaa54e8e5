//! The settings of mails.

use std::path::Path;

use crate::config::error::{ConfigError, Problems, wrong};
use crate::config::values::number_or_off;
use crate::config::{Environment, MailRoute, Settings};
use crate::invites::limits::MailCaps;
use usher_mail::Templates;

impl Settings {
    /// Needed before the rest.
    #[must_use]
    pub fn mail_default_locale(&self) -> &str {
        self.mail_default_locale.as_deref().unwrap_or("en")
    }

    pub(super) fn mail_route(&self, environment: Environment, var: &Path) -> Result<MailRoute, ConfigError> {
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

    pub(super) fn mail_from(&self, environment: Environment) -> Result<String, ConfigError> {
        match (&self.mail_from, environment) {
            (Some(from), _) => Ok(from.clone()),
            (None, Environment::Development) => Ok("usher <usher@localhost.localdomain>".to_owned()),
            (None, Environment::Production) => Err(wrong(
                "MAIL_FROM",
                "is missing; it looks like: Example <no-reply@example.com>",
            )),
        }
    }

    pub(super) fn mail_caps(&self, all: &mut Problems) -> MailCaps {
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

    pub(super) fn templates(&self) -> Result<(), ConfigError> {
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
