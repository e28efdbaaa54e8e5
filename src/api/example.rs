//! The examples of the API's documentation. A test sends each request and compares each answer.

use serde_json::{Value, json};

use crate::store::EventType;

const ACME: &str = "11111111-1111-4111-8111-111111111111";
const APOLLO: &str = "22222222-2222-4222-8222-222222222222";
const GRACE: &str = "0199d3a8-7c00-7000-8000-000000000001";
const INVITE: &str = "0199d3a8-7c00-7000-8000-000000000003";
const MESSAGE_ID: &str = "0199d3a8-7c00-7000-8000-000000000004@example.com";
const MADE: &str = "2026-11-22T09:30:00.000000Z";
const LATER: &str = "2026-11-22T10:15:00.000000Z";
const EXPIRY: &str = "2026-11-29T09:30:00.000000Z";

pub(super) fn organization_id() -> Value {
    ACME.into()
}

pub(super) fn project_id() -> Value {
    APOLLO.into()
}

pub(super) fn invite_id() -> Value {
    INVITE.into()
}

pub(super) fn clerk_user_id() -> Value {
    "user_2ada".into()
}

/// Has the form of a token, but is not valid.
pub(super) fn token() -> Value {
    "AZnTqHwAcACAAAAAAAAAAwAAAAFleGFtcGxlLWV4YW1wbGUtZXhhbXBsZS1leGFtcGxl".into()
}

pub(super) fn put_organization() -> Value {
    json!({ "name": "Acme" })
}

pub(super) fn organization() -> Value {
    json!({ "id": ACME, "name": "Acme", "created_at": MADE, "updated_at": MADE })
}

pub(super) fn put_project() -> Value {
    json!({ "organization_id": ACME, "name": "Apollo" })
}

pub(super) fn project() -> Value {
    json!({ "id": APOLLO, "organization_id": ACME, "name": "Apollo", "created_at": MADE, "updated_at": MADE })
}

pub(super) fn members() -> Value {
    json!({ "items": [{
        "admin_id": GRACE, "clerk_user_id": "user_2grace", "email": "grace@example.com", "name": "Grace Hopper",
        "role": "admin", "since": MADE,
    }], "next_cursor": null })
}

pub(super) fn put_organization_member() -> Value {
    json!({ "role": "admin" })
}

pub(super) fn organization_member() -> Value {
    json!({
        "admin_id": GRACE, "clerk_user_id": "user_2ada", "email": "ada@example.com", "name": "Ada Lovelace",
        "role": "admin", "since": MADE,
    })
}

pub(super) fn put_project_member() -> Value {
    json!({ "role": "editor" })
}

pub(super) fn project_member() -> Value {
    json!({
        "admin_id": GRACE, "clerk_user_id": "user_2ada", "email": "ada@example.com", "name": "Ada Lovelace",
        "role": "editor", "since": MADE,
    })
}

pub(super) fn member_batch() -> Value {
    json!({ "members": [
        { "organization_id": ACME, "clerk_user_id": "user_2ada", "role": "admin" },
        { "project_id": APOLLO, "clerk_user_id": "user_2ada", "role": "emperor" },
    ] })
}

pub(super) fn member_batch_answer() -> Value {
    json!({ "results": [
        { "status": 201 },
        { "status": 422, "problem": {
            "status": 422, "code": "invalid_request", "title": "The request is not valid.",
            "errors": [{ "pointer": "/role", "detail": "must be one of support, client, editor, admin" }],
        } },
    ] })
}

pub(super) fn memberships() -> Value {
    json!({ "items": [
        { "organization": { "id": ACME, "name": "Acme" }, "role": "admin", "since": MADE },
        {
            "organization": { "id": ACME, "name": "Acme" }, "project": { "id": APOLLO, "name": "Apollo" },
            "role": "editor", "since": MADE,
        },
    ] })
}

pub(super) fn create_invite() -> Value {
    json!({ "organization_id": ACME, "email": "ada@example.com", "role": "member", "invited_by": "user_2grace" })
}

pub(super) fn create_project_invite() -> Value {
    json!({
        "project_id": APOLLO, "email": "ada@example.com", "role": "editor", "invited_by": "user_2grace",
        "expires_in": "3d", "acceptance": "ask", "locale": "de", "message": "We start on Monday.",
        "redirect_url": "https://app.example.com/welcome",
    })
}

/// Right after it was created.
pub(super) fn new_invite() -> Value {
    json!({
        "id": INVITE, "kind": "organization", "organization": { "id": ACME, "name": "Acme" },
        "email": "ada@example.com", "role": "member", "status": "pending", "acceptance": "default",
        "invited_by": { "id": GRACE, "name": "Grace Hopper", "email": "grace@example.com" },
        "expires_at": EXPIRY, "flagged": false, "created_at": MADE, "updated_at": MADE,
        "delivery": {
            "kind": "invite", "status": "queued", "attempts": 0, "message_id": MESSAGE_ID, "queued_at": MADE,
        },
    })
}

/// After its mail was sent.
pub(super) fn invite() -> Value {
    with(
        new_invite(),
        json!({ "delivery": {
            "kind": "invite", "status": "sent", "attempts": 1, "message_id": MESSAGE_ID, "queued_at": MADE,
            "sent_at": MADE,
        }}),
    )
}

pub(super) fn revoked_invite() -> Value {
    with(
        invite(),
        json!({ "status": "revoked", "revoked_at": LATER, "updated_at": LATER }),
    )
}

pub(super) fn accepted_invite() -> Value {
    with(
        invite(),
        json!({ "status": "accepted", "accepted_at": LATER, "updated_at": LATER }),
    )
}

pub(super) fn declined_invite() -> Value {
    with(
        invite(),
        json!({ "status": "declined", "declined_at": LATER, "updated_at": LATER }),
    )
}

pub(super) fn dismissed_invite() -> Value {
    with(invite(), json!({ "dismissed_at": LATER, "updated_at": LATER }))
}

pub(super) fn batch() -> Value {
    json!({ "invites": [
        { "organization_id": ACME, "email": "ada@example.com", "role": "member", "invited_by": "user_2grace" },
        { "organization_id": ACME, "email": "bob@example.com", "role": "emperor" },
    ]})
}

pub(super) fn batch_answer() -> Value {
    json!({ "results": [
        { "status": 201, "invite": new_invite() },
        { "status": 422, "problem": {
            "status": 422, "code": "invalid_request", "title": "The request is not valid.",
            "errors": [{ "pointer": "/role", "detail": "must be one of member, admin, owner" }],
        }},
    ]})
}

pub(super) fn invite_page() -> Value {
    json!({ "items": [invite()], "next_cursor": null })
}

pub(super) fn event_id() -> Value {
    "evt_0199d3a87c0070008000000000000005".into()
}

pub(super) fn event_page() -> Value {
    json!({ "items": [event_of(EventType::InviteSent)], "next_cursor": event_id() })
}

/// An event of each type, as it is sent and listed.
#[must_use]
pub fn event_of(event_type: EventType) -> Value {
    let changed = |changes: Value| with(invite(), changes);
    let pending = json!({ "status": "pending" });
    let (data, changes) = match event_type {
        EventType::InviteCreated => (new_invite(), pending),
        EventType::InviteRefreshed | EventType::InviteResent => (changed(json!({ "updated_at": LATER })), pending),
        EventType::InviteSent => (invite(), json!({ "delivery": "sent" })),
        EventType::InviteFailed => (invite(), json!({ "delivery": "failed" })),
        EventType::InviteAccepted => (accepted_invite(), json!({ "status": "accepted" })),
        EventType::InviteDeclined => (declined_invite(), json!({ "status": "declined" })),
        EventType::InviteRevoked => (revoked_invite(), json!({ "status": "revoked" })),
        EventType::InviteExpired => (
            changed(json!({ "status": "expired", "expired_at": EXPIRY, "updated_at": EXPIRY })),
            json!({ "status": "expired" }),
        ),
        EventType::MembershipCreated | EventType::MembershipUpdated => {
            (membership(json!({ "role": "member" })), json!({ "role": "member" }))
        }
        EventType::MembershipRemoved => (membership(json!({})), json!({ "role": "member" })),
        EventType::OrganizationDeleted => (
            json!({ "organization": { "id": ACME, "name": "Acme" } }),
            json!({ "deleted": true }),
        ),
        EventType::OrganizationOwnerless => (
            json!({ "organization": { "id": ACME, "name": "Acme" } }),
            json!({ "role": "owner" }),
        ),
        EventType::ProjectDeleted => (
            json!({ "organization": { "id": ACME, "name": "Acme" }, "project": { "id": APOLLO, "name": "Apollo" } }),
            json!({ "deleted": true }),
        ),
    };
    json!({ "id": event_id(), "type": event_type, "timestamp": LATER, "data": data, "changes": changes })
}

fn membership(changes: Value) -> Value {
    let member = json!({
        "organization": { "id": ACME, "name": "Acme" }, "admin_id": GRACE, "clerk_user_id": "user_2grace",
        "email": "grace@example.com",
    });
    with(member, changes)
}

pub(super) fn banner() -> Value {
    json!({ "items": [with(invite(), json!({ "flagged": true, "flagged_at": LATER }))], "synced": true })
}

pub(super) fn accept_by_token() -> Value {
    json!({ "token": token() })
}

pub(super) fn link_preview() -> Value {
    json!({
        "id": invite_id(), "kind": "organization", "organization": { "name": "Acme" }, "project": null, "role": "member",
        "invited_by": { "name": "Grace Hopper" }, "email": "a***@example.com", "address": null, "status": "pending",
        "expires_at": EXPIRY, "redirect_url": null,
    })
}

pub(super) fn link_preview_by_body() -> Value {
    with(link_preview(), json!({ "address": "ada@example.com" }))
}

fn with(mut invite: Value, changes: Value) -> Value {
    if let (Value::Object(invite), Value::Object(changes)) = (&mut invite, changes) {
        invite.extend(changes);
    }
    invite
}
