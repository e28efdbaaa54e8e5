//! What a request to invite says: its fields, read and checked, and why it may be refused.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::too_many_mails;
use crate::api::body::{Fields, is_clerk_user_id, line, uuid};
use crate::config::{Config, parse_duration};
use crate::flows::{Invitation, Inviter, Refusal, Target};
use crate::invites::Acceptance;
use crate::invites::email::EmailAddress;
use crate::invites::limits::{MAX_MESSAGE, MAX_TTL};
use crate::problem::{Code, FieldError, Problem};

/// The most bytes of one character in JSON: `\ud83d\ude00`.
const MAX_CHARACTER: usize = 12;
/// Characters of everything in an invite except the message, with the names of its fields and spaces.
const BESIDE_THE_MESSAGE: usize = 700;
/// Bytes of one invite with every character escaped.
pub(in crate::api) const MAX_INVITE: usize = (MAX_MESSAGE as usize + BESIDE_THE_MESSAGE) * MAX_CHARACTER;
/// The address to invite, into which organization or project, with which role.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the schema of what `invitation` reads field by field")]
pub(super) struct CreateInvite {
    /// The organization to invite into. Give either this or `project_id`.
    organization_id: Option<Uuid>,
    /// The project to invite into. Accepting also gives the lowest role in its organization.
    project_id: Option<Uuid>,
    /// The address to invite.
    #[schema(format = Email, max_length = 254)]
    email: String,
    /// The role that the invite gives: one of `ORGANIZATION_ROLES` or `PROJECT_ROLES`.
    #[schema(
        min_length = 1,
        max_length = 64,
        example = "member",
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\u2028\u2029\s][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
    )]
    role: String,
    /// The inviter: an admin's id or a Clerk user id. They can't give a role above their own, and get a mail when it is
    /// accepted.
    #[schema(pattern = "^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|user_[A-Za-z0-9_]{1,59})$")]
    invited_by: Option<String>,
    /// How long the invite is valid: a number of minutes, hours or days, at most 30 days. Default: `INVITE_TTL`.
    #[schema(example = "7d", max_length = 16, pattern = "^0*[1-9][0-9]*[mhd]$")]
    expires_in: Option<String>,
    /// Whether the invite is accepted automatically. Default: `default`.
    acceptance: Option<Acceptance>,
    /// The mail's language (BCP 47).
    #[schema(pattern = "^[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*$", max_length = 35)]
    locale: Option<String>,
    /// A note from the inviter, for the mail and the banner.
    #[schema(max_length = 2_000, pattern = r"^[^\u0000]*$")]
    message: Option<String>,
}

/// Reads the fields of a [`CreateInvite`].
pub(super) fn invitation(mut fields: Fields, config: &Config) -> Result<Invitation, Problem> {
    let target = target(&mut fields);
    let email = fields.required("email", email);
    let role = fields.required("role", line(64));
    let invited_by = fields.optional("invited_by", inviter);
    let expires_in = fields.optional("expires_in", duration);
    let acceptance = fields.optional("acceptance", acceptance);
    let locale = fields.optional("locale", locale);
    let message = fields.optional("message", message);
    let invitation = target.zip(email).zip(role).map(|((target, email), role)| Invitation {
        target,
        email,
        role,
        invited_by,
        expires_in: expires_in.unwrap_or(config.invite_ttl),
        acceptance: acceptance.unwrap_or(Acceptance::Default),
        locale,
        message,
    });
    fields.finish(invitation)
}

fn target(fields: &mut Fields) -> Option<Target> {
    let organization = fields.optional("organization_id", uuid);
    let project = fields.optional("project_id", uuid);
    match (organization, project) {
        (Some(id), None) => Some(Target::Organization(id)),
        (None, Some(id)) => Some(Target::Project(id)),
        (Some(_), Some(_)) => {
            fields.error("project_id", "can't be given together with organization_id");
            None
        }
        (None, None) => {
            if !fields.has_errors() {
                fields.error("organization_id", "is missing; give organization_id or project_id");
            }
            None
        }
    }
}

pub(super) fn email(value: Value) -> Result<EmailAddress, String> {
    let text = value.as_str().ok_or("must be a string")?;
    EmailAddress::parse(text).map_err(|error| error.to_string())
}

pub(super) fn inviter(value: Value) -> Result<Inviter, String> {
    let text = value.as_str().ok_or("must be a string")?;
    if let Ok(id) = text.parse() {
        return Ok(Inviter::Admin(id));
    }
    if is_clerk_user_id(text) {
        Ok(Inviter::Clerk(text.to_owned()))
    } else {
        Err("must be an admin's id or a Clerk user id".to_owned())
    }
}

fn duration(value: Value) -> Result<TimeDelta, String> {
    let ttl = value
        .as_str()
        .and_then(parse_duration)
        .ok_or("must be a duration such as 7d, 36h or 90m")?;
    if ttl > MAX_TTL {
        Err("must be at most 30d".to_owned())
    } else {
        Ok(ttl)
    }
}

fn acceptance(value: Value) -> Result<Acceptance, String> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| "must be auto, ask or default".to_owned())
}

fn locale(value: Value) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a string")?;
    let is_tag = text.len() <= 35
        && text
            .split('-')
            .all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    if is_tag {
        Ok(text.to_owned())
    } else {
        Err("must be a language tag such as en or pt-BR".to_owned())
    }
}

fn message(value: Value) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a string")?;
    if text.chars().count() > usize::from(MAX_MESSAGE) {
        return Err(format!("must have at most {MAX_MESSAGE} characters"));
    }
    if text.contains('\0') {
        return Err("must not contain NUL".to_owned());
    }
    Ok(text.to_owned())
}

/// The problem that the caller gets for a refusal.
pub(super) fn refused(refusal: Refusal, invitation: &Invitation, config: &Config, now: DateTime<Utc>) -> Problem {
    let (target, order) = match invitation.target {
        Target::Organization(_) => ("organization_id", &config.roles.organization),
        Target::Project(_) => ("project_id", &config.roles.project),
    };
    let field = |name: &'static str, detail: String| Problem::invalid(vec![FieldError::new(name, detail)]);
    match refusal {
        Refusal::UnknownTarget => field(target, "does not exist; PUT it first".to_owned()),
        Refusal::UnknownRole => field("role", format!("must be one of {}", order.names().join(", "))),
        Refusal::UnknownInviter => field("invited_by", "is not a known person".to_owned()),
        Refusal::OwnAddress => field("email", "is the inviter's own address".to_owned()),
        Refusal::RoleAboveInviter => Code::RoleAboveInviter.into(),
        Refusal::InviterBlocked => Code::InviterBlocked.into(),
        Refusal::TooManyMails => too_many_mails(now),
        Refusal::AlreadyMember => Code::AlreadyMember.into(),
    }
}
