//! An invite as JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::invites::limits::MailHold;
use crate::invites::{Acceptance, Status, TargetKind};
use crate::store::{DeliveryKind, DeliveryStatus, InviteView};
use usher_base::unicode::has_visible;

/// A time as RFC 3339 in UTC, to the microsecond.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(as = Time, value_type = String, format = DateTime, example = "2026-11-22T09:30:00.000000Z")]
pub(super) struct Rfc3339(pub DateTime<Utc>);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

/// An organization or a project.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = Place)]
struct Named {
    /// Its id.
    id: Uuid,
    /// Its name.
    name: String,
}

/// Who invited.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = Inviter)]
struct InviterJson {
    /// The id in `admins`.
    id: Uuid,
    /// First and last name, as far as there are any.
    #[schema(required)]
    name: Option<String>,
    /// The primary address.
    #[schema(required)]
    email: Option<String>,
}

/// The newest mail for the invite.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = Delivery)]
struct DeliveryJson {
    /// What was sent: the invite, or a reminder of it.
    kind: DeliveryKind,
    /// Where it stands.
    status: DeliveryStatus,
    /// Why the address was asked for the last time without another mail: this one is the last that there was. Left out
    /// where that mail was queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    held: Option<MailHold>,
    /// How often sending it was tried.
    attempts: i32,
    /// Why the last try failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_error: Option<String>,
    /// The mail's `Message-ID`, by which it is found in the logs of mail servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message_id: Option<String>,
    /// When it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    queued_at: Option<Rfc3339>,
    /// When the mail server took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sent_at: Option<Rfc3339>,
}

/// An invite. What does not apply, such as a time that has not come, is left out.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = Invite)]
pub(super) struct InviteJson {
    /// Its id.
    id: Uuid,
    /// What it leads into.
    kind: TargetKind,
    /// The organization, or the one that the project belongs to.
    organization: Named,
    /// The project, where it leads into one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    project: Option<Named>,
    /// The invited address, as it was written.
    email: String,
    /// The role that it gives.
    role: String,
    /// Where it stands now.
    status: Status,
    /// Whether its person is let in or asked.
    acceptance: Acceptance,
    /// Who invited, where the app said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    invited_by: Option<InviterJson>,
    /// The mail's language.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    locale: Option<String>,
    /// A few words from the inviter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message: Option<String>,
    /// From then on it is expired.
    expires_at: Rfc3339,
    /// Whether the banner shows it to its person.
    flagged: bool,
    /// When it was made.
    created_at: Rfc3339,
    /// When it last changed.
    updated_at: Rfc3339,
    /// Since when the banner shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    flagged_at: Option<Rfc3339>,
    /// When its person put the banner away, until their next sign-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    dismissed_at: Option<Rfc3339>,
    /// When its person accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    accepted_at: Option<Rfc3339>,
    /// When its person declined.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    declined_at: Option<Rfc3339>,
    /// When the app took it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    revoked_at: Option<Rfc3339>,
    /// When its time had passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expired_at: Option<Rfc3339>,
    /// Its newest mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    delivery: Option<DeliveryJson>,
}

impl InviteJson {
    /// Its id.
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// The organization that the invite, or the project that it leads into, belongs to.
    pub(super) fn organization_id(&self) -> Uuid {
        self.organization.id
    }

    /// The invite as it stands at `now`.
    pub(super) fn at(view: InviteView, now: DateTime<Utc>) -> Self {
        let delivery = view.delivery().map(|(kind, status)| DeliveryJson {
            kind,
            status,
            held: view.held(),
            attempts: view.delivery_attempts.unwrap_or(0),
            last_error: view.delivery_error.clone(),
            message_id: view.delivery_message_id.clone(),
            queued_at: view.delivery_queued_at.map(Rfc3339),
            sent_at: view.delivery_sent_at.map(Rfc3339),
        });
        let invited_by = view.invite.invited_by.map(|id| InviterJson {
            id,
            name: full_name(view.inviter_first_name.as_deref(), view.inviter_last_name.as_deref()),
            email: view.inviter_email.clone(),
        });
        let status = view.invite.status_at(now);
        let invite = view.invite;
        Self {
            id: invite.id,
            kind: invite.kind,
            organization: Named {
                id: view.target_organization_id,
                name: view.organization_name,
            },
            project: invite
                .project_id
                .zip(view.project_name)
                .map(|(id, name)| Named { id, name }),
            email: invite.email,
            role: invite.role,
            status,
            acceptance: invite.acceptance,
            invited_by,
            locale: invite.locale,
            message: invite.message,
            expires_at: Rfc3339(invite.expires_at),
            flagged: status == Status::Pending && invite.flagged_at.is_some(),
            created_at: Rfc3339(invite.created_at),
            updated_at: Rfc3339(invite.updated_at),
            flagged_at: invite.flagged_at.map(Rfc3339),
            dismissed_at: invite.dismissed_at.map(Rfc3339),
            accepted_at: invite.accepted_at.map(Rfc3339),
            declined_at: invite.declined_at.map(Rfc3339),
            revoked_at: invite.revoked_at.map(Rfc3339),
            expired_at: (status == Status::Expired).then(|| Rfc3339(invite.expired_at.unwrap_or(invite.expires_at))),
            delivery,
        }
    }
}

/// First and last name, as far as there is anything to see of them.
pub(super) fn full_name(first: Option<&str>, last: Option<&str>) -> Option<String> {
    let names: Vec<&str> = [first, last]
        .into_iter()
        .flatten()
        .map(str::trim)
        .filter(|name| has_visible(name))
        .collect();
    (!names.is_empty()).then(|| names.join(" "))
}
