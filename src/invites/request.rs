//! A request to invite an address: read once, by the API and the command line alike. Whoever holds one knows that its
//! fields are right; what only the database knows is checked by `flows::invite`.

use chrono::TimeDelta;
use serde_json::Value;
use uuid::Uuid;

use super::email::EmailAddress;
use super::limits::{MAX_MESSAGE, MAX_TTL};
use super::roles::{RoleOrder, Roles};
use super::{Acceptance, InviteDetails, RedirectOrigins, TargetKind};
use crate::app_id::AppId;
use crate::clock::parse_duration;
use crate::fields::{FieldError, Fields, body, line, text};

/// What somebody is invited into, by its key ([`AppId::key`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    Organization(Uuid),
    Project(Uuid),
}

impl Target {
    #[must_use]
    pub const fn kind(self) -> TargetKind {
        match self {
            Self::Organization(_) => TargetKind::Organization,
            Self::Project(_) => TargetKind::Project,
        }
    }

    /// The field that names it.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Organization(_) => "organization_id",
            Self::Project(_) => "project_id",
        }
    }

    /// Reads a JSON object that names one and has no other fields.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub fn parse(value: Value) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(value)?;
        target_orders(&mut fields, &Roles::default());
        let organization = fields.optional("organization_id", AppId::read);
        let target = Self::of(
            organization.as_ref(),
            fields.optional("project_id", AppId::read).as_ref(),
        );
        fields.finish(target)
    }

    /// `None` unless exactly one is given.
    pub(super) fn of(organization: Option<&AppId>, project: Option<&AppId>) -> Option<Self> {
        match (organization, project) {
            (Some(id), None) => Some(Self::Organization(id.key())),
            (None, Some(id)) => Some(Self::Project(id.key())),
            _ => None,
        }
    }
}

/// How the app refers to a person.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PersonRef {
    /// By `admins.id`.
    Admin(Uuid),
    /// By Clerk user id.
    Clerk(String),
}

impl PersonRef {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.parse().map(Self::Admin).ok();
        id.or_else(|| is_clerk_user_id(text).then(|| Self::Clerk(text.to_owned())))
    }
}

/// Whether this has the form of a Clerk user id.
#[must_use]
pub fn is_clerk_user_id(text: &str) -> bool {
    text.strip_prefix("user_").is_some_and(|rest| {
        (1..=59).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

body! {
    /// The address to invite, into which organization or project, with which role.
    pub struct CreateInvite(orders: &[&RoleOrder], redirects: &RedirectOrigins) {
        /// The organization to invite into. Give either this or `project_id`.
        organization_id: Option<AppId> = optional(AppId::read),
        /// The project to invite into. Accepting also gives the lowest role in its organization.
        project_id: Option<AppId> = optional(AppId::read),
        /// The address to invite.
        #[schema(value_type = String, format = Email, max_length = 254)]
        email: EmailAddress = required(email),
        /// The role that the invite gives: one of `ORGANIZATION_ROLES` or `PROJECT_ROLES`.
        #[schema(
            min_length = 1,
            max_length = 64,
            example = "member",
            pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\u2028\u2029\s][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
        )]
        role: String = required(role(orders)),
        /// The inviter: an admin's id or a Clerk user id. They can't give a role above their own, and get a mail when it is
        /// accepted.
        #[schema(
            value_type = Option<String>,
            pattern = "^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|user_[A-Za-z0-9_]{1,59})$"
        )]
        invited_by: Option<PersonRef> = optional(person),
        /// How long the invite is valid: a number of minutes, hours or days, at most 30 days. Default: `INVITE_TTL`.
        #[schema(value_type = Option<String>, example = "7d", max_length = 16, pattern = "^0*[1-9][0-9]*[mhd]$")]
        expires_in: Option<TimeDelta> = optional(validity),
        /// Whether the invite is accepted automatically. Default: `default`.
        acceptance: Option<Acceptance> = optional(acceptance),
        /// The mail's language (BCP 47).
        #[schema(pattern = "^[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*$", max_length = 35)]
        locale: Option<String> = optional(locale),
        /// A note from the inviter, for the mail and the banner.
        #[schema(max_length = 2_000, pattern = r"^[^\u0000]*$")]
        message: Option<String> = optional(message),
        /// Where the accept page leads after accepting, at an origin of `REDIRECT_URLS`. Default: `APP_URL`.
        #[schema(
            max_length = 2_048,
            example = "https://app.example.com/welcome",
            pattern = r"^[Hh][Tt][Tt][Pp][Ss]?://[\x21-\x5b\x5d-\x7e]+$"
        )]
        redirect_url: Option<String> = optional(redirects.read()),
    }
}

impl CreateInvite {
    #[must_use]
    pub fn details(&self) -> InviteDetails {
        InviteDetails {
            locale: self.locale.clone(),
            message: self.message.clone(),
            redirect_url: self.redirect_url.clone(),
        }
    }
}

/// A request whose fields are right.
#[derive(Debug, Clone)]
pub struct InviteRequest {
    pub target: Target,
    pub body: CreateInvite,
}

/// A request with wrong fields. What it names is known as far as it can be read, so that the database can be asked
/// about it: the answer names all that is wrong.
#[derive(Debug, Clone)]
pub struct InvalidRequest {
    pub target: Option<Target>,
    pub invited_by: Option<PersonRef>,
    pub errors: Vec<FieldError>,
}

impl InviteRequest {
    /// Reads a JSON object.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub fn parse(value: Value, roles: &Roles, redirects: &RedirectOrigins) -> Result<Self, InvalidRequest> {
        let id = |name: &str| AppId::parse(value.get(name)?.as_str()?);
        let target = Target::of(id("organization_id").as_ref(), id("project_id").as_ref());
        let invited_by = value
            .get("invited_by")
            .and_then(Value::as_str)
            .and_then(PersonRef::parse);
        Self::parse_fields(value, roles, redirects).map_err(|errors| InvalidRequest {
            target,
            invited_by,
            errors,
        })
    }

    fn parse_fields(value: Value, roles: &Roles, redirects: &RedirectOrigins) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(value)?;
        let orders = target_orders(&mut fields, roles);
        let body = CreateInvite::read(&mut fields, &orders, redirects);
        let request = body.and_then(|body| {
            let target = Target::of(body.organization_id.as_ref(), body.project_id.as_ref())?;
            Some(Self { target, body })
        });
        fields.finish(request)
    }
}

/// The role orders of what is named as target. Exactly one must be named.
pub(super) fn target_orders<'a>(fields: &mut Fields, roles: &'a Roles) -> Vec<&'a RoleOrder> {
    match (fields.has("organization_id"), fields.has("project_id")) {
        (true, false) => vec![&roles.organization],
        (false, true) => vec![&roles.project],
        (true, true) => {
            fields.error("project_id", "can't be given together with organization_id");
            vec![&roles.organization, &roles.project]
        }
        (false, false) => {
            fields.error("organization_id", "is missing; give organization_id or project_id");
            vec![&roles.organization, &roles.project]
        }
    }
}

pub(super) fn role(orders: &[&RoleOrder]) -> impl FnOnce(Value) -> Result<String, String> {
    move |value| {
        let role = line(64)(value)?;
        if orders.iter().any(|order| order.rank(&role).is_some()) {
            return Ok(role);
        }
        let names: Vec<&str> = orders
            .iter()
            .flat_map(|order| order.names())
            .map(String::as_str)
            .collect();
        Err(format!("must be one of {}", names.join(", ")))
    }
}

pub(super) fn email(value: Value) -> Result<EmailAddress, String> {
    EmailAddress::parse(&text(value)?).map_err(|error| error.to_string())
}

pub(super) fn person(value: Value) -> Result<PersonRef, String> {
    PersonRef::parse(&text(value)?).ok_or_else(|| "must be an admin's id or a Clerk user id".to_owned())
}

fn validity(value: Value) -> Result<TimeDelta, String> {
    let validity = value
        .as_str()
        .and_then(parse_duration)
        .ok_or("must be a duration such as 7d, 36h or 90m")?;
    if validity > MAX_TTL {
        Err("must be at most 30d".to_owned())
    } else {
        Ok(validity)
    }
}

fn acceptance(value: Value) -> Result<Acceptance, String> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| "must be auto, ask or default".to_owned())
}

fn locale(value: Value) -> Result<String, String> {
    let text = text(value)?;
    let is_tag = text.len() <= 35
        && text
            .split('-')
            .all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    if is_tag {
        Ok(text)
    } else {
        Err("must be a language tag such as en or pt-BR".to_owned())
    }
}

fn message(value: Value) -> Result<String, String> {
    let text = text(value)?;
    if text.chars().count() > usize::from(MAX_MESSAGE) {
        return Err(format!("must have at most {MAX_MESSAGE} characters"));
    }
    if text.contains('\0') {
        return Err("must not contain NUL".to_owned());
    }
    Ok(text)
}
