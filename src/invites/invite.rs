//! An invite and its states.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::email::EmailKey;
use super::token::LinkClaim;
use crate::names::named;

named! {
    /// What the invite leads into.
    TargetKind("kind") {
        /// An organization.
        Organization = "organization",
        /// A project, and with it its organization.
        Project = "project",
    }
}

named! {
    /// Where an invite stands.
    Status("status") {
        /// Waiting for its person.
        Pending = "pending",
        /// They are in. Final.
        Accepted = "accepted",
        /// They said no. Final.
        Declined = "declined",
        /// The inviter took it back. Final.
        Revoked = "revoked",
        /// Its time has passed; resending or inviting again renews it.
        Expired = "expired",
    }
}

named! {
    /// Whether a matching person is let in or asked.
    Acceptance("acceptance") {
        /// Let in as soon as a verified address matches.
        Auto = "auto",
        /// Always ask, by the banner.
        Ask = "ask",
        /// As the service's `AUTO_ACCEPT` says.
        Default = "default",
    }
}

/// One invite: an address asked into one organization or project.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Invite {
    /// Its id.
    pub id: Uuid,
    /// Organization or project.
    #[sqlx(try_from = "String")]
    pub kind: TargetKind,
    /// The organization; for a project, the one it belonged to when the invite was made.
    pub organization_id: Uuid,
    /// The project, for [`TargetKind::Project`] only (the database checks it).
    pub project_id: Option<Uuid>,
    /// The address as it was written.
    pub email: String,
    /// What the address is compared by.
    pub email_key: EmailKey,
    /// The role it gives.
    pub role: String,
    /// Where it stands as stored; [`Invite::status_at`] is the truth.
    #[sqlx(try_from = "String")]
    pub status: Status,
    /// Let in, or ask.
    #[sqlx(try_from = "String")]
    pub acceptance: Acceptance,
    /// The person who invites, an `admins.id`.
    pub invited_by: Option<Uuid>,
    /// The person who accepted, an `admins.id`.
    pub accepted_by: Option<Uuid>,
    /// The language for the mail (BCP 47).
    pub locale: Option<String>,
    /// A few words from the inviter.
    pub message: Option<String>,
    /// Raised when older links shall be void.
    pub token_version: i32,
    /// When the address was asked, or last asked again.
    pub invited_at: DateTime<Utc>,
    /// From then on it is expired.
    pub expires_at: DateTime<Utc>,
    /// Since when the banner shows it.
    pub flagged_at: Option<DateTime<Utc>>,
    /// To whom the banner shows it, an `admins.id`.
    pub flagged_for: Option<Uuid>,
    /// When that person put the banner away, until their next sign-in.
    pub dismissed_at: Option<DateTime<Utc>>,
    /// When it was accepted.
    pub accepted_at: Option<DateTime<Utc>>,
    /// When it was declined.
    pub declined_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When the sweep noted that it had expired.
    pub expired_at: Option<DateTime<Utc>>,
    /// When the row was made.
    pub created_at: DateTime<Utc>,
    /// When the row last changed.
    pub updated_at: DateTime<Utc>,
}

impl Invite {
    /// Where the invite stands at `now`. Expiry is a matter of time, not of a sweep having passed.
    #[must_use]
    pub fn status_at(&self, now: DateTime<Utc>) -> Status {
        if self.status == Status::Pending && self.expires_at <= now {
            Status::Expired
        } else {
            self.status
        }
    }

    /// Whether it can still be accepted, declined or shown.
    #[must_use]
    pub fn is_open_at(&self, now: DateTime<Utc>) -> bool {
        self.status_at(now) == Status::Pending
    }

    /// What the invite's current link says.
    #[must_use]
    pub fn link_claim(&self) -> LinkClaim {
        LinkClaim {
            invite_id: self.id,
            version: self.token_version,
        }
    }
}
