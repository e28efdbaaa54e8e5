//! The configuration as SQL sees it: statements, and on Postgres functions and triggers.

use chrono::TimeDelta;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, SqliteConnection};

use crate::invites::RedirectOrigins;
use crate::invites::limits::{COOL_DOWN, DAILY_CAP, DEFAULT_TTL, MAX_MESSAGE, MAX_TTL, MailCaps, REPETITION};
use crate::invites::roles::Roles;

/// The configuration that the database needs.
#[derive(Debug, Clone)]
pub struct Rules {
    pub roles: Roles,
    /// How long an invite is valid by default.
    pub invite_ttl: TimeDelta,
    pub mail_caps: MailCaps,
    /// The domain of the sender's address, used in Message-IDs.
    pub mail_domain: String,
    pub identities: Identities,
    /// Whether Clerk's names and addresses are written over those in an app's `admins`.
    pub sync_profiles: bool,
    pub redirects: RedirectOrigins,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            roles: Roles::default(),
            invite_ttl: DEFAULT_TTL,
            mail_caps: MailCaps::default(),
            mail_domain: Self::NO_DOMAIN.to_owned(),
            identities: Identities::default(),
            sync_profiles: false,
            redirects: RedirectOrigins::default(),
        }
    }
}

/// Where an app on the same Postgres stores Clerk's user ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Identities {
    /// In `admins.external_id`.
    #[default]
    ExternalId,
    /// In `admin_identities (admin_id, provider, issuer, subject)`, mirrored into `admins.external_id`.
    Table {
        /// The value of `provider` for Clerk users.
        provider: String,
        /// The values of `issuer` for Clerk users; the first is written into new rows.
        issuers: Vec<String>,
    },
}

/// Whether the app has a unique index on `admins.email`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum UniqueEmails {
    #[default]
    No,
    /// Unique among people who are not deleted.
    Live,
    /// Unique among all.
    All,
}

impl UniqueEmails {
    fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Live => "live",
            Self::All => "all",
        }
    }
}

impl Identities {
    /// The value that names the column in the configuration.
    pub const EXTERNAL_ID: &str = "admins.external_id";
    /// The value that names the table in the configuration.
    pub const TABLE: &str = "admin_identities";

    /// The value in the configuration.
    #[must_use]
    pub fn place(&self) -> &'static str {
        match self {
            Self::ExternalId => Self::EXTERNAL_ID,
            Self::Table { .. } => Self::TABLE,
        }
    }

    /// The value of `provider` for Clerk users; empty without such a column.
    #[must_use]
    pub fn provider(&self) -> &str {
        match self {
            Self::ExternalId => "",
            Self::Table { provider, .. } => provider,
        }
    }

    /// The values of `issuer` for Clerk users; empty without such a column.
    #[must_use]
    pub fn issuers(&self) -> &[String] {
        match self {
            Self::ExternalId => &[],
            Self::Table { issuers, .. } => issuers,
        }
    }
}

impl Rules {
    /// Used in a Message-ID if the sender has no domain.
    pub const NO_DOMAIN: &str = "localhost";

    /// Writes the one row, if it has changed.
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

    /// Writes the one row, if it has changed.
    pub(super) async fn publish_on_postgres(
        &self,
        conn: &mut PgConnection,
        unique_emails: UniqueEmails,
    ) -> sqlx::Result<()> {
        let (provider, issuers) = match &self.identities {
            Identities::ExternalId => (None, None),
            Identities::Table { provider, issuers } => (Some(provider), Some(issuers)),
        };
        // Identities that did not count so far are taken over, too.
        sqlx::query(
            "delete from usher_backfills where name = 'admin_identities' and exists (
                 select from usher_settings where (identity_provider, identity_issuers) is distinct from ($1, $2))",
        )
        .bind(provider)
        .bind(issuers)
        .execute(&mut *conn)
        .await?;
        sqlx::query(
            "insert into usher_settings as s (organization_roles, project_roles, invite_ttl, max_invite_ttl, max_message,
                 resend_cool_down, resend_daily_cap, mail_cap_inviter, mail_cap_organization, identity_provider,
                 identity_issuers, unique_emails, mail_domain, organization_invite_role, project_invite_role,
                 mail_cap_address, repetition, redirect_origins, sync_profiles)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
             on conflict (only_row) do update set
                 organization_roles = excluded.organization_roles, project_roles = excluded.project_roles,
                 invite_ttl = excluded.invite_ttl, max_invite_ttl = excluded.max_invite_ttl,
                 max_message = excluded.max_message, resend_cool_down = excluded.resend_cool_down,
                 resend_daily_cap = excluded.resend_daily_cap, mail_cap_inviter = excluded.mail_cap_inviter,
                 mail_cap_organization = excluded.mail_cap_organization, identity_provider = excluded.identity_provider,
                 identity_issuers = excluded.identity_issuers, unique_emails = excluded.unique_emails, mail_domain = excluded.mail_domain,
                 organization_invite_role = excluded.organization_invite_role,
                 project_invite_role = excluded.project_invite_role, mail_cap_address = excluded.mail_cap_address,
                 repetition = excluded.repetition, redirect_origins = excluded.redirect_origins,
                 sync_profiles = excluded.sync_profiles
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
        .bind(issuers)
        .bind(unique_emails.as_str())
        .bind(&self.mail_domain)
        .bind(self.roles.organization_invite_role())
        .bind(self.roles.project_invite_role())
        .bind(self.mail_caps.address.map(|cap| i64::from(cap.get())))
        .bind(interval(REPETITION))
        .bind(self.redirects.names())
        .bind(self.sync_profiles)
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
