//! An invite as JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::invites::{Acceptance, Kind, Status};
use crate::store::{DeliveryStatus, InviteView};

/// A time as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rfc3339(pub DateTime<Utc>);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

#[derive(Serialize)]
struct Named {
    id: Uuid,
    name: String,
}

#[derive(Serialize)]
struct InviterJson {
    id: Uuid,
    name: Option<String>,
    email: Option<String>,
}

#[derive(Serialize)]
struct DeliveryJson {
    kind: Option<String>,
    status: DeliveryStatus,
    attempts: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    message_id: Option<String>,
    queued_at: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<Rfc3339>,
}

/// What the app and the invitee see. Times that have not come are left out; so is whatever could let somebody in.
#[derive(Serialize)]
pub(super) struct InviteJson {
    id: Uuid,
    kind: Kind,
    organization: Named,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<Named>,
    email: String,
    role: String,
    status: Status,
    acceptance: Acceptance,
    #[serde(skip_serializing_if = "Option::is_none")]
    invited_by: Option<InviterJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locale: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    expires_at: Rfc3339,
    flagged: bool,
    created_at: Rfc3339,
    updated_at: Rfc3339,
    #[serde(skip_serializing_if = "Option::is_none")]
    flagged_at: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dismissed_at: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_at: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    declined_at: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expired_at: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<DeliveryJson>,
}

impl InviteJson {
    /// The organization that the invite, or the project that it leads into, belongs to.
    pub(super) fn organization_id(&self) -> Uuid {
        self.organization.id
    }

    /// The invite as it stands at `now`.
    pub(super) fn at(view: InviteView, now: DateTime<Utc>) -> Self {
        let delivery = view.delivery().map(|status| DeliveryJson {
            kind: view.delivery_kind.clone(),
            status,
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
                id: view.home_id,
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

/// First and last name, as far as there are any.
pub(super) fn full_name(first: Option<&str>, last: Option<&str>) -> Option<String> {
    let names: Vec<&str> = [first, last]
        .into_iter()
        .flatten()
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    (!names.is_empty()).then(|| names.join(" "))
}
