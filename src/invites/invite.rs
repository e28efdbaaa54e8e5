//! An invite and its states.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::email::EmailKey;
use super::token::LinkClaim;
use crate::names::{named, with_fields};

named! {
    /// The kind of an invite's target.
    TargetKind("kind") {
        /// An organization.
        Organization = "organization",
        /// A project, and with it its organization.
        Project = "project",
    }
}

named! {
    /// The status of an invite.
    Status("status") {
        /// Not answered yet.
        Pending = "pending",
        /// The person became a member. Final.
        Accepted = "accepted",
        /// The person declined. Final.
        Declined = "declined",
        /// The app revoked it. Final.
        Revoked = "revoked",
        /// Its validity period is over; sending or inviting again renews it.
        Expired = "expired",
    }
}

named! {
    /// Whether an invite is accepted automatically when a person matches.
    Acceptance("acceptance") {
        /// Accepted as soon as a verified address matches.
        Auto = "auto",
        /// Never accepted automatically; the banner asks.
        Ask = "ask",
        /// As the service's `AUTO_ACCEPT` says.
        Default = "default",
    }
}

with_fields! {
    /// What may be said with an invite. Nothing of it decides who may do what.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
    pub struct InviteDetails {
        /// The language of the mail (BCP 47).
        pub locale: Option<String>,
        /// The inviter's message.
        pub message: Option<String>,
        /// Where the invitee goes after accepting. Give it out through [`super::RedirectOrigins::allowed`] only.
        pub redirect_url: Option<String>,
    }
}

with_fields! {
    /// The invitation of one address to one organization or project.
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
    pub struct Invite {
        pub id: Uuid,
        #[sqlx(try_from = "String")]
        pub kind: TargetKind,
        /// The organization; for a project, the one it belonged to when the invite was made.
        pub organization_id: Uuid,
        /// The project, for [`TargetKind::Project`] only (the database checks it).
        pub project_id: Option<Uuid>,
        /// The address as it was written.
        pub email: String,
        /// The normalized address, for comparisons.
        pub email_key: EmailKey,
        pub role: String,
        /// The stored status; [`Invite::status_at`] takes the time into account.
        #[sqlx(try_from = "String")]
        pub status: Status,
        #[sqlx(try_from = "String")]
        pub acceptance: Acceptance,
        /// The inviter, an `admins.id`.
        pub invited_by: Option<Uuid>,
        /// The person who accepted, an `admins.id`.
        pub accepted_by: Option<Uuid>,
        /// Their Clerk user id.
        pub accepted_by_clerk_id: Option<String>,
        #[sqlx(flatten)]
        pub details: InviteDetails,
        /// Incremented to invalidate older links.
        pub token_version: i32,
        /// When the address was last invited.
        pub invited_at: DateTime<Utc>,
        pub expires_at: DateTime<Utc>,
        /// Since when the banner shows it.
        pub flagged_at: Option<DateTime<Utc>>,
        /// The person whose banner shows it, by usher's id.
        pub flagged_for: Option<Uuid>,
        /// When that person dismissed the banner, until their next sign-in.
        pub dismissed_at: Option<DateTime<Utc>>,
        pub accepted_at: Option<DateTime<Utc>>,
        pub declined_at: Option<DateTime<Utc>>,
        pub revoked_at: Option<DateTime<Utc>>,
        /// When the sweep stored that it had expired.
        pub expired_at: Option<DateTime<Utc>>,
        pub created_at: DateTime<Utc>,
        pub updated_at: DateTime<Utc>,
    }
}

impl Invite {
    /// The columns that an invite is read from.
    pub fn columns() -> impl Iterator<Item = &'static str> {
        let own = Self::FIELDS.iter().filter(|name| **name != "details");
        own.chain(InviteDetails::FIELDS).copied()
    }

    /// The status at `now`. An invite expires at its time, not when a sweep runs.
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

    /// The claim of the invite's current link.
    #[must_use]
    pub fn link_claim(&self) -> LinkClaim {
        LinkClaim {
            invite_id: self.id,
            version: self.token_version,
        }
    }
}
