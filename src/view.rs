//! An invite as JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app_id::AppId;
use crate::invites::limits::MailHold;
use crate::invites::{Acceptance, RedirectOrigins, Status, TargetKind};
use crate::store::{DeliveryKind, DeliveryStatus, InviteView};
use usher_base::unicode::has_visible;

/// A time as RFC 3339 in UTC, to the microsecond.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(as = Time, value_type = String, format = DateTime, example = "2026-11-22T09:30:00.000000Z")]
pub(crate) struct Rfc3339(pub DateTime<Utc>);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

/// An organization or a project.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = Place)]
pub(crate) struct Named {
    /// The id, as the app spells it.
    pub(crate) id: String,
    /// The name.
    pub(crate) name: String,
}

/// The inviter.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = Inviter)]
struct InviterJson {
    /// The id in `admins`.
    id: Uuid,
    /// First and last name, where known.
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
    /// The invite, or a reminder of it.
    kind: DeliveryKind,
    /// The status.
    status: DeliveryStatus,
    /// Why inviting the address again sent no new mail. Left out if a mail was queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    held: Option<MailHold>,
    /// The number of attempts to send it.
    attempts: i32,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_error: Option<String>,
    /// The mail's `Message-ID`, which mail servers log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message_id: Option<String>,
    /// When it was queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    queued_at: Option<Rfc3339>,
    /// When the mail server accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sent_at: Option<Rfc3339>,
}

/// An invite. Fields that don't apply are left out, such as `accepted_at` of a pending one.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = Invite)]
pub(crate) struct InviteJson {
    /// The organization's key.
    #[serde(skip)]
    organization_key: Uuid,
    /// The id.
    id: Uuid,
    /// What it leads into.
    kind: TargetKind,
    /// The organization, or the one that the project belongs to.
    organization: Named,
    /// The project, if the invite is to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    project: Option<Named>,
    /// The invited address, as the app wrote it.
    email: String,
    /// The role that it gives.
    role: String,
    /// The status now.
    status: Status,
    /// Whether the invite is accepted automatically.
    acceptance: Acceptance,
    /// The inviter, if the app named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    invited_by: Option<InviterJson>,
    /// The mail's language.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    locale: Option<String>,
    /// A note from the inviter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message: Option<String>,
    /// Where to lead the invitee after accepting. Left out if its origin is no longer allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    redirect_url: Option<String>,
    /// When it expires.
    expires_at: Rfc3339,
    /// Whether the invitee's banner shows it.
    flagged: bool,
    /// When it was created.
    created_at: Rfc3339,
    /// When it last changed.
    updated_at: Rfc3339,
    /// Since when the banner shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    flagged_at: Option<Rfc3339>,
    /// When the invitee dismissed it, until their next sign-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    dismissed_at: Option<Rfc3339>,
    /// When the invitee accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    accepted_at: Option<Rfc3339>,
    /// When the invitee declined.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    declined_at: Option<Rfc3339>,
    /// When the app revoked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    revoked_at: Option<Rfc3339>,
    /// When it expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expired_at: Option<Rfc3339>,
    /// The newest mail for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    delivery: Option<DeliveryJson>,
}

impl InviteJson {
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// The key of the organization that the invite is to, or that of its project.
    pub(crate) fn organization_id(&self) -> Uuid {
        self.organization_key
    }

    /// The invite as it is at `now`.
    pub(crate) fn at(view: InviteView, redirects: &RedirectOrigins, now: DateTime<Utc>) -> Self {
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
            organization_key: view.target_organization_id,
            id: invite.id,
            kind: invite.kind,
            organization: Named {
                id: AppId::shown(view.target_organization_id, view.organization_spelling),
                name: view.organization_name,
            },
            project: invite.project_id.zip(view.project_name).map(|(key, name)| Named {
                id: AppId::shown(key, view.project_spelling),
                name,
            }),
            email: invite.email,
            role: invite.role,
            status,
            acceptance: invite.acceptance,
            invited_by,
            locale: invite.details.locale,
            message: invite.details.message,
            redirect_url: redirects.allowed(invite.details.redirect_url.as_deref()),
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

/// First and last name, where they have visible characters.
pub(crate) fn full_name(first: Option<&str>, last: Option<&str>) -> Option<String> {
    let names: Vec<&str> = [first, last]
        .into_iter()
        .flatten()
        .map(str::trim)
        .filter(|name| has_visible(name))
        .collect();
    (!names.is_empty()).then(|| names.join(" "))
}
