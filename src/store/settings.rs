//! The configuration as statements in the database see it, functions and triggers on Postgres among them.

use chrono::TimeDelta;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, SqliteConnection};

use crate::invites::limits::{COOL_DOWN, DAILY_CAP, DEFAULT_TTL, MAX_MESSAGE, MAX_TTL, MailCaps, REPETITION};
use crate::invites::roles::Roles;

/// What the database needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Both orders of roles.
    pub roles: Roles,
    /// How long an invite is valid where nobody says otherwise.
    pub invite_ttl: TimeDelta,
    /// How many invite mails may be asked for on a day.
    pub mail_caps: MailCaps,
    /// The domain of the sender's address, in which mails have their Message-IDs.
    pub mail_domain: String,
    /// Where the app keeps Clerk's user ids.
    pub identities: Identities,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            roles: Roles::default(),
            invite_ttl: DEFAULT_TTL,
            mail_caps: MailCaps::default(),
            mail_domain: Self::NO_DOMAIN.to_owned(),
            identities: Identities::default(),
        }
    }
}

/// Where an app on the same Postgres keeps Clerk's user ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Identities {
    /// In `admins.external_id`.
    #[default]
    ExternalId,
    /// In `admin_identities (admin_id, provider, issuer, subject)`, mirrored into `admins.external_id`.
    Table {
        /// What `provider` says of Clerk users.
        provider: String,
        /// What `issuer` says of Clerk users.
        issuer: String,
    },
}

/// Whether the app lets an `admins.email` be there once only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum UniqueEmails {
    /// As often as it comes.
    #[default]
    No,
    /// Once among the live.
    Live,
    /// Once among all.
    All,
}

impl UniqueEmails {
    /// As the database names it.
    fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Live => "live",
            Self::All => "all",
        }
    }
}

impl Identities {
    /// How the configuration names the column.
    pub const EXTERNAL_ID: &str = "admins.external_id";
    /// How the configuration names the table.
    pub const TABLE: &str = "admin_identities";

    /// How the configuration names the place.
    #[must_use]
    pub fn place(&self) -> &'static str {
        match self {
            Self::ExternalId => Self::EXTERNAL_ID,
            Self::Table { .. } => Self::TABLE,
        }
    }

    /// What `provider` says of Clerk users; empty where there is no such column.
    #[must_use]
    pub fn provider(&self) -> &str {
        match self {
            Self::ExternalId => "",
            Self::Table { provider, .. } => provider,
        }
    }

    /// What `issuer` says of Clerk users; empty where there is no such column.
    #[must_use]
    pub fn issuer(&self) -> &str {
        match self {
            Self::ExternalId => "",
            Self::Table { issuer, .. } => issuer,
        }
    }
}

impl Rules {
    /// Stands where the sender has no domain for a Message-ID.
    pub const NO_DOMAIN: &str = "localhost";

    /// Writes the one row, if it says anything else.
    pub(super) async fn publish_on_sqlite(&self, conn: &mut SqliteConnection) -> sqlx::Result<()> {
        sqlx::query(
            "insert into usher_settings (only_row, mail_domain) values (1, $1)
             on conflict (only_row) do update set mail_domain = excluded.mail_domain
             where usher_settings.mail_domain <> excluded.mail_domain",
        )
        .bind(&self.mail_domain)
        .execute(conn)
        .await
        .map(drop)
    }

    /// Writes the one row, if it says anything else.
    pub(super) async fn publish_on_postgres(
        &self,
        conn: &mut PgConnection,
        unique_emails: UniqueEmails,
    ) -> sqlx::Result<()> {
        let (provider, issuer) = match &self.identities {
            Identities::ExternalId => (None, None),
            Identities::Table { provider, issuer } => (Some(provider), Some(issuer)),
        };
        sqlx::query(
            "insert into usher_settings as s (organization_roles, project_roles, invite_ttl, max_invite_ttl, max_message,
                 resend_cool_down, resend_daily_cap, mail_cap_inviter, mail_cap_organization, identity_provider,
                 identity_issuer, unique_emails, mail_domain, organization_invite_role, project_invite_role,
                 mail_cap_address, repetition)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
             on conflict (only_row) do update set
                 organization_roles = excluded.organization_roles, project_roles = excluded.project_roles,
                 invite_ttl = excluded.invite_ttl, max_invite_ttl = excluded.max_invite_ttl,
                 max_message = excluded.max_message, resend_cool_down = excluded.resend_cool_down,
                 resend_daily_cap = excluded.resend_daily_cap, mail_cap_inviter = excluded.mail_cap_inviter,
                 mail_cap_organization = excluded.mail_cap_organization, identity_provider = excluded.identity_provider,
                 identity_issuer = excluded.identity_issuer, unique_emails = excluded.unique_emails, mail_domain = excluded.mail_domain,
                 organization_invite_role = excluded.organization_invite_role,
                 project_invite_role = excluded.project_invite_role, mail_cap_address = excluded.mail_cap_address,
                 repetition = excluded.repetition
             where s is distinct from excluded",
        )
        .bind(self.roles.organization.names())
        .bind(self.roles.project.names())
        .bind(interval(self.invite_ttl))
        .bind(interval(MAX_TTL))
        .bind(i32::from(MAX_MESSAGE))
        .bind(interval(COOL_DOWN))
        .bind(i32::from(DAILY_CAP))
        .bind(self.mail_caps.inviter.map(|cap| i64::from(cap.get())))
        .bind(self.mail_caps.organization.map(|cap| i64::from(cap.get())))
        .bind(provider)
        .bind(issuer)
        .bind(unique_emails.as_str())
        .bind(&self.mail_domain)
        .bind(self.roles.organization_invite_role())
        .bind(self.roles.project_invite_role())
        .bind(self.mail_caps.address.map(|cap| i64::from(cap.get())))
        .bind(interval(REPETITION))
        .execute(conn)
        .await
        .map(drop)
    }
}

fn interval(time: TimeDelta) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: time.num_microseconds().unwrap_or(i64::MAX),
    }
}
