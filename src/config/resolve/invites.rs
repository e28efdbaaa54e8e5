//! The settings of invites: their link, validity, reminders and roles.

use chrono::TimeDelta;

use crate::clock::parse_duration;
use crate::config::error::{ConfigError, Problems, wrong};
use crate::config::{InviteUrl, Settings};
use crate::invites::limits::{DEFAULT_TTL, MAX_TTL};
use crate::invites::reminders::Reminders;
use crate::invites::roles::{RoleOrder, Roles};

impl Settings {
    pub(super) fn invite_url(&self, public_url: Option<&str>) -> Result<InviteUrl, ConfigError> {
        match (self.invite_url.as_deref(), public_url) {
            (Some(text), _) => text.parse().map_err(|problem: &str| wrong("INVITE_URL", problem)),
            (None, Some(usher)) => Ok(InviteUrl(format!("{usher}/i#{{token}}"))),
            (None, None) => Err(wrong(
                "INVITE_URL",
                "is missing; it looks like https://app.example.com/invite#{token}. For usher's own accept page set USHER_PUBLIC_URL instead",
            )),
        }
    }

    pub(super) fn invite_ttl(&self) -> Result<TimeDelta, ConfigError> {
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

    pub(super) fn invite_reminders(&self) -> Result<Reminders, ConfigError> {
        match self.invite_reminders.as_deref() {
            None => Ok(Reminders::default()),
            Some(text) => text.parse().map_err(|problem: &str| wrong("INVITE_REMINDERS", problem)),
        }
    }

    pub(super) fn roles(&self, all: &mut Problems) -> Roles {
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
}
