//! Inviting and following up, for the app.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Api;
use super::auth::AppClient;
use super::body::{Fields, Id, JsonBody, line, uuid};
use super::idempotency::{IdempotencyKey, answered};
use super::view::InviteJson;
use crate::config::{Config, parse_duration};
use crate::flows::{self, Invitation, Invited, Inviter, Refusal, Target};
use crate::invites::Acceptance;
use crate::invites::email::EmailAddress;
use crate::invites::limits::{MAX_MESSAGE, MAX_TTL};
use crate::problem::{FieldError, Problem};
use crate::store::{StoreError, Tx};

/// Invites in one request.
const MAX_BATCH: usize = 500;

/// `POST /v1/invites`
pub(super) async fn create(
    State(api): State<Api>,
    client: AppClient,
    idempotency: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let config = &api.app.config;
    let mut tx = api.app.store.begin().await?;
    if let Some(answer) = idempotency
        .repeated(&mut tx, &client, "/v1/invites", &body.bytes)
        .await?
    {
        return Ok(answer);
    }
    let invitation = invitation(Fields::of(body.value)?, config)?;
    let answers = flows::invite(
        &mut tx,
        std::slice::from_ref(&invitation),
        &config.roles,
        client.organizations(),
    )
    .await?;
    let Some(answer) = answers.into_iter().next() else {
        return Err(Problem::internal());
    };
    let invited = answer.map_err(|refusal| refused(refusal, &invitation, config))?;
    let json = invite_json(&mut tx, invited.invite.id)
        .await?
        .ok_or_else(Problem::internal)?;
    let (status, text) = (created_or_ok(&invited), to_text(&json)?);
    idempotency.keep(&mut tx, &client, status, &text).await?;
    tx.commit().await?;
    let mut response = answered(status.as_u16().into(), text);
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/invites/{}", invited.invite.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `POST /v1/invites/batch`: one answer each, in order; a bad item spoils no other.
pub(super) async fn batch(
    State(api): State<Api>,
    client: AppClient,
    idempotency: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let config = &api.app.config;
    let mut tx = api.app.store.begin().await?;
    if let Some(answer) = idempotency
        .repeated(&mut tx, &client, "/v1/invites/batch", &body.bytes)
        .await?
    {
        return Ok(answer);
    }
    let mut fields = Fields::of(body.value)?;
    let items = fields.required("invites", items);
    let items = fields.finish(items)?;
    let read: Vec<Result<Invitation, Problem>> = items
        .into_iter()
        .map(|item| invitation(Fields::of(item)?, config))
        .collect();
    let good: Vec<Invitation> = read.iter().filter_map(|item| item.as_ref().ok().cloned()).collect();
    let answers = flows::invite(&mut tx, &good, &config.roles, client.organizations()).await?;
    let ids: Vec<Uuid> = answers.iter().flatten().map(|invited| invited.invite.id).collect();
    let views = views_by_id(&mut tx, &ids).await?;
    let mut answers = answers.into_iter();
    let results: Vec<Value> = read
        .into_iter()
        .map(|item| {
            let invitation = item?;
            let answer = answers.next().ok_or_else(Problem::internal)?;
            let invited = answer.map_err(|refusal| refused(refusal, &invitation, config))?;
            let invite = views.get(&invited.invite.id).ok_or_else(Problem::internal)?;
            Ok(json!({ "status": created_or_ok(&invited).as_u16(), "invite": invite }))
        })
        .map(|result: Result<Value, Problem>| {
            result.unwrap_or_else(|problem| json!({ "status": problem.status.as_u16(), "problem": problem }))
        })
        .collect();
    let text = to_text(&json!({ "results": results }))?;
    idempotency.keep(&mut tx, &client, StatusCode::OK, &text).await?;
    tx.commit().await?;
    Ok(answered(200, text))
}

fn created_or_ok(invited: &Invited) -> StatusCode {
    if invited.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    }
}

fn to_text(json: &impl serde::Serialize) -> Result<String, Problem> {
    serde_json::to_string(json).map_err(|_| Problem::internal())
}

fn items(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(items) if items.len() <= MAX_BATCH => Ok(items),
        Value::Array(_) => Err(format!("must have at most {MAX_BATCH} items")),
        _ => Err("must be a list of invites".to_owned()),
    }
}

/// The same invite twice in a batch is shown twice, as it stands at the end.
async fn views_by_id(tx: &mut Tx, ids: &[Uuid]) -> Result<HashMap<Uuid, Value>, StoreError> {
    let now = tx.now();
    let views = tx.invite_views(ids).await?;
    let by_id = views
        .into_iter()
        .map(|view| (view.invite.id, json!(InviteJson::at(view, now))));
    Ok(by_id.collect())
}

/// `GET /v1/invites/{id}`
pub(super) async fn show(State(api): State<Api>, client: AppClient, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    let mut tx = api.app.store.read().await?;
    let json = invite_json(&mut tx, id).await?.ok_or_else(Problem::not_found)?;
    client.must_use(json.organization_id())?;
    Ok(Json(json))
}

/// One invite as JSON, as it stands within the transaction.
pub(super) async fn invite_json(tx: &mut Tx, id: Uuid) -> Result<Option<InviteJson>, StoreError> {
    let now = tx.now();
    let views = tx.invite_views(&[id]).await?;
    Ok(views.into_iter().next().map(|view| InviteJson::at(view, now)))
}

/// Reads a create request.
fn invitation(mut fields: Fields, config: &Config) -> Result<Invitation, Problem> {
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
            fields.error("project_id", "must not stand beside organization_id");
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
    let is_clerk_id =
        text.starts_with("user_") && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_clerk_id {
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

/// A refusal as the caller sees it.
fn refused(refusal: Refusal, invitation: &Invitation, config: &Config) -> Problem {
    let (target, ladder) = match invitation.target {
        Target::Organization(_) => ("organization_id", &config.roles.organization),
        Target::Project(_) => ("project_id", &config.roles.project),
    };
    let field = |name: &'static str, detail: String| Problem::invalid(vec![FieldError::new(name, detail)]);
    match refusal {
        Refusal::UnknownTarget => field(target, "names nothing that is there; PUT it first".to_owned()),
        Refusal::UnknownRole => field("role", format!("must be one of {}", ladder.names().join(", "))),
        Refusal::UnknownInviter => field("invited_by", "names nobody who is there".to_owned()),
        Refusal::OwnAddress => field("email", "is the inviter's own address".to_owned()),
        Refusal::RoleAboveInviter => Problem::new(
            StatusCode::FORBIDDEN,
            "role_above_inviter",
            "The inviter may not hand out this role here.",
        ),
        Refusal::AlreadyMember => Problem::new(
            StatusCode::CONFLICT,
            "already_member",
            "The address's owner is a member already, with this role or a higher one.",
        ),
    }
}
