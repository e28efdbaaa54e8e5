//! An event as JSON, rendered once, from the view that the API uses.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::app_id::AppId;
use crate::invites::RedirectOrigins;
use crate::store::{EventTarget, EventType, InviteView, Unnumbered};
use crate::view::{InviteJson, Named, Rfc3339};

const PREFIX: &str = "evt_";

/// The id of an event as receivers see it.
#[must_use]
pub fn event_id(id: Uuid) -> String {
    format!("{PREFIX}{}", id.simple())
}

/// Reads what [`event_id`] wrote.
#[must_use]
pub fn read_event_id(text: &str) -> Option<Uuid> {
    let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == 32)?;
    Uuid::try_parse(digits).ok()
}

/// What happened. Sent to the app's endpoints, and listed by `GET /v1/events`.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventJson {
    /// The id, the same over all tries: `evt_` and 32 hexadecimal digits.
    id: String,
    /// What happened.
    #[serde(rename = "type")]
    event_type: EventType,
    /// When it happened.
    timestamp: Rfc3339,
    /// What it happened to, as it was a moment later.
    data: EventData,
    /// What happened to it: fields and their new values.
    #[schema(value_type = Object)]
    changes: serde_json::Value,
}

#[derive(Serialize)]
#[serde(untagged)]
enum EventData {
    /// Of `invite.…`: the invite, as `GET /v1/invites/{id}` shows it.
    Invite(Box<InviteJson>),
    /// Of `invite.…`, if the app deleted the invite meanwhile.
    Gone(GoneInvite),
    /// Of `membership.…`, `organization.…` and `project.…`.
    Target(TargetData),
}

/// Any of them, not one of them: what is required of one may be found in another.
impl PartialSchema for EventData {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new()
            .item(Ref::from_schema_name(InviteJson::name()))
            .item(Ref::from_schema_name(GoneInvite::name()))
            .item(Ref::from_schema_name(TargetData::name()))
            .into()
    }
}

impl ToSchema for EventData {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((InviteJson::name().into(), InviteJson::schema()));
        schemas.push((GoneInvite::name().into(), GoneInvite::schema()));
        schemas.push((TargetData::name().into(), TargetData::schema()));
        InviteJson::schemas(schemas);
        GoneInvite::schemas(schemas);
        TargetData::schemas(schemas);
    }
}

/// An invite that is no longer there.
#[derive(Serialize, ToSchema)]
struct GoneInvite {
    /// The id.
    id: Uuid,
}

/// An organization or a project, and of a membership its person.
#[derive(Serialize, ToSchema)]
#[schema(as = MembershipOrTarget)]
struct TargetData {
    /// The organization, or the one that the project belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    organization: Option<Named>,
    /// The project, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    project: Option<Named>,
    /// The person's id in `admins`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    admin_id: Option<Uuid>,
    /// The person's id in Clerk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    clerk_user_id: Option<String>,
    /// The person's primary address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    email: Option<String>,
    /// The person's role. Left out if they are no longer a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    role: Option<String>,
}

/// What events are about.
pub(super) struct Subjects {
    /// By id.
    pub invites: HashMap<Uuid, InviteView>,
    /// By the event's `seq`.
    pub targets: HashMap<i64, EventTarget>,
}

impl EventJson {
    /// The event as it is at `now`, and its organization.
    pub(super) fn at(
        event: &Unnumbered,
        about: &Subjects,
        redirects: &RedirectOrigins,
        now: DateTime<Utc>,
    ) -> (Self, Option<Uuid>) {
        let (data, organization_id) = match event.invite_id {
            Some(id) => match about.invites.get(&id) {
                Some(view) => {
                    let invite = InviteJson::at(view.clone(), redirects, now);
                    let organization_id = invite.organization_id();
                    (EventData::Invite(Box::new(invite)), Some(organization_id))
                }
                None => (EventData::Gone(GoneInvite { id }), None),
            },
            None => {
                let about = about.targets.get(&event.seq).cloned().unwrap_or_default();
                let organization_id = about.organization_id;
                (EventData::Target(target(about)), organization_id)
            }
        };
        let json = Self {
            id: event_id(event.id),
            event_type: event.event_type,
            timestamp: Rfc3339(event.at),
            data,
            changes: serde_json::from_str(&event.changes).unwrap_or_default(),
        };
        (json, organization_id)
    }
}

fn target(about: EventTarget) -> TargetData {
    let named = |key: Option<Uuid>, spelling: Option<String>, name: Option<String>| {
        key.map(|key| Named {
            id: AppId::shown(key, spelling),
            name: name.unwrap_or_default(),
        })
    };
    TargetData {
        organization: named(
            about.organization_id,
            about.organization_spelling,
            about.organization_name,
        ),
        project: named(about.project_id, about.project_spelling, about.project_name),
        admin_id: about.admin_id,
        clerk_user_id: about.clerk_user_id,
        email: about.email,
        role: about.role,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written_and_nothing_else_is() {
        let id = Uuid::from_u128(0x0190_1234_5678_7abc_8def_0123_4567_89ab);
        assert_eq!(event_id(id), "evt_0190123456787abc8def0123456789ab");
        assert_eq!(read_event_id(&event_id(id)), Some(id));
        for text in ["", "evt_", "evt_0190", &id.to_string(), &format!("evt_{id}")] {
            assert_eq!(read_event_id(text), None, "{text}");
        }
    }
}
