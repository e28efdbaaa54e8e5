//! What a list of invites is filtered by: the same for the API and the command line.

use serde_json::Value;
use uuid::Uuid;

use super::Status;
use super::email::EmailKey;
use super::request::{PersonRef, email, person};
use crate::app_id::AppId;
use crate::fields::Fields;

/// An invite must match all that is given.
#[derive(Debug, Clone, Default)]
pub struct InviteFilter {
    /// For this organization or one of its projects.
    pub organization_id: Option<Uuid>,
    pub project_id: Option<Uuid>,
    pub invited_by: Option<PersonRef>,
    pub email: Option<EmailKey>,
    /// In this status at the present time, even if the sweep has not stored it yet.
    pub status: Option<Status>,
}

impl InviteFilter {
    /// Reads its fields; what is wrong with them is known to `fields`.
    pub fn read(fields: &mut Fields) -> Self {
        Self {
            organization_id: fields.optional("organization_id", key),
            project_id: fields.optional("project_id", key),
            email: fields.optional("email", |value| email(value).map(|email| email.key().clone())),
            status: fields.optional("status", status),
            invited_by: fields.optional("invited_by", person),
        }
    }
}

fn key(value: Value) -> Result<Uuid, String> {
    AppId::read(value).map(|id| id.key())
}

fn status(value: Value) -> Result<Status, String> {
    let names: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("must be one of {}", names.join(", ")))
}
