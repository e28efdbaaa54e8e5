//! What the app is told: one row in the transaction that makes it true. The numberer gives it a number and a body, and
//! queues its deliveries.

mod deliveries;
mod endpoints;
mod feed;
mod numbering;

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::rows::{Row as _, Time, row, sql, to_json};
use super::{DeliveryStatus, Membership, Result, Tx, on_conn};
use crate::metrics::InviteEvent;
use crate::names::named;
pub use deliveries::{
    EventDeliveryFilter, EventDeliveryKey, EventDeliveryNote, EventDeliveryStatus, EventDeliveryView, QueuedEvent,
};
pub use endpoints::EndpointRow;
pub use feed::{FeedFilter, FeedRow};
pub use numbering::{EventTarget, Numbered, Unnumbered};

named! {
    /// The type of an event that the app is told of.
    EventType("event type") {
        /// An address was invited.
        InviteCreated = "invite.created",
        /// An address that already had an invite was invited again.
        InviteRefreshed = "invite.refreshed",
        /// The invite's mail was queued again.
        InviteResent = "invite.resent",
        /// The mail server accepted the invite's mail.
        InviteSent = "invite.sent",
        /// The invite's mail was refused for good.
        InviteFailed = "invite.failed",
        /// The invite was accepted, automatically or by the person.
        InviteAccepted = "invite.accepted",
        /// The person declined the invite.
        InviteDeclined = "invite.declined",
        /// The app revoked the invite.
        InviteRevoked = "invite.revoked",
        /// The invite's time is over.
        InviteExpired = "invite.expired",
        /// Somebody became a member of an organization or a project.
        MembershipCreated = "membership.created",
        /// A member's role changed.
        MembershipUpdated = "membership.updated",
        /// Somebody is no longer a member.
        MembershipRemoved = "membership.removed",
        /// An organization was deleted.
        OrganizationDeleted = "organization.deleted",
        /// Clerk deleted the last member with the organization's highest role.
        OrganizationOwnerless = "organization.ownerless",
        /// A project was deleted.
        ProjectDeleted = "project.deleted",
    }
}

/// What an event is about, by its ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Subject {
    pub invite_id: Option<Uuid>,
    pub organization_id: Option<Uuid>,
    pub project_id: Option<Uuid>,
    /// The person of a membership.
    pub admin_id: Option<Uuid>,
}

row! {
    /// A row to write at the commit.
    #[derive(Debug)]
    pub(super) struct NewEvent {
        id: Uuid,
        event_type: EventType,
        at: Time,
        invite_id: Option<Uuid>,
        organization_id: Option<Uuid>,
        project_id: Option<Uuid>,
        admin_id: Option<Uuid>,
        changes: String,
    }
}

impl Tx {
    /// Records what the app is to be told of. It is written at the commit. `changes` is a JSON object: never an address,
    /// never a token.
    pub fn record_outgoing(&mut self, event_type: EventType, subject: Subject, changes: &serde_json::Value) {
        let row = NewEvent {
            id: self.clock.new_id(),
            event_type,
            at: Time(self.clock.now()),
            invite_id: subject.invite_id,
            organization_id: subject.organization_id,
            project_id: subject.project_id,
            admin_id: subject.admin_id,
            changes: changes.to_string(),
        };
        self.outgoing.push(row);
    }

    /// The event that the app is told of, if an invite's event is one.
    pub(super) fn tell_of_invite(&mut self, event: InviteEvent, invite_id: Uuid) {
        let (event_type, status) = match event {
            InviteEvent::Created => (EventType::InviteCreated, "pending"),
            InviteEvent::Refreshed => (EventType::InviteRefreshed, "pending"),
            InviteEvent::Resent => (EventType::InviteResent, "pending"),
            InviteEvent::Accepted => (EventType::InviteAccepted, "accepted"),
            InviteEvent::Declined => (EventType::InviteDeclined, "declined"),
            InviteEvent::Revoked => (EventType::InviteRevoked, "revoked"),
            InviteEvent::Expired => (EventType::InviteExpired, "expired"),
            InviteEvent::Flagged | InviteEvent::Dismissed | InviteEvent::Refused => return,
        };
        self.record_outgoing(event_type, invite(invite_id), &json!({ "status": status }));
    }

    /// The result of an invite's mail, if it is final.
    pub(super) fn tell_of_mail(&mut self, status: DeliveryStatus, invite_id: Uuid) {
        let event_type = match status {
            DeliveryStatus::Sent => EventType::InviteSent,
            DeliveryStatus::Failed => EventType::InviteFailed,
            DeliveryStatus::Queued | DeliveryStatus::Suppressed => return,
        };
        self.record_outgoing(event_type, invite(invite_id), &json!({ "delivery": status }));
    }

    /// A membership that was created, changed or removed.
    pub(super) fn tell_of_membership(&mut self, event_type: EventType, is_project: bool, membership: &Membership) {
        let target = Some(membership.target_id);
        let subject = Subject {
            organization_id: target.filter(|_| !is_project),
            project_id: target.filter(|_| is_project),
            admin_id: Some(membership.admin_id),
            invite_id: None,
        };
        self.record_outgoing(event_type, subject, &json!({ "role": membership.role }));
    }

    /// What happened to an organization itself.
    pub(super) fn tell_of_organization(&mut self, event_type: EventType, id: Uuid, changes: &serde_json::Value) {
        let subject = Subject {
            organization_id: Some(id),
            ..Subject::default()
        };
        self.record_outgoing(event_type, subject, changes);
    }

    /// Removes the events of invites that this transaction created and removed again.
    pub(super) fn forget_outgoing(&mut self, invites: &[Uuid]) {
        self.outgoing
            .retain(|row| row.invite_id.is_none_or(|invite| !invites.contains(&invite)));
    }

    pub(super) async fn write_outgoing(&mut self) -> Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let text = format!(
            "insert into usher_outgoing_events (id, type, at, invite_id, organization_id, project_id, admin_id, changes)
             select r.* from {}",
            NewEvent::unfold(self.dialect())
        );
        let rows = to_json(&self.outgoing)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Deletes events that happened before a time, with their deliveries; returns how many. Events without a number are
    /// kept.
    pub async fn drop_outgoing(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        Ok(on_conn!(self, |conn| sqlx::query(
            "delete from usher_outgoing_events where seq in (
                 select seq from usher_outgoing_events where number is not null and at < $1 order by number limit $2)"
        )
        .bind(before)
        .bind(i64::from(limit))
        .execute(conn)
        .await?
        .rows_affected()))
    }
}

fn invite(id: Uuid) -> Subject {
    Subject {
        invite_id: Some(id),
        ..Subject::default()
    }
}
