//! Inviting and following up, for the app.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::auth::AppClient;
use super::body::{Fields, Id, JsonBody, is_clerk_user_id, line, uuid};
use super::idempotency::{IdempotencyKey, Kept, Outcome, Repeated};
use super::limits::BATCH_SHARE;
use super::view::InviteJson;
use super::{example, tag};
use crate::config::{Config, parse_duration};
use crate::flows::{self, Invitation, Invited, Inviter, Refusal, Target, caps_reset_at};
use crate::invites::Acceptance;
use crate::invites::email::EmailAddress;
use crate::invites::limits::{MAX_MESSAGE, MAX_TTL};
use crate::problem::{Code, FieldError, Problem};
use crate::store::{StoreError, Tx};

/// Invites in one request.
const MAX_BATCH: usize = 500;
/// Bytes of a character in JSON at most: `\ud83d\ude00`.
const MAX_CHARACTER: usize = 12;
/// Characters of everything else in an invite, the names of its fields and room for spaces included.
const BESIDE_THE_MESSAGE: usize = 700;
/// Bytes of one invite, every character escaped.
pub(super) const MAX_INVITE: usize = (MAX_MESSAGE as usize + BESIDE_THE_MESSAGE) * MAX_CHARACTER;
/// Bytes of a batch: every one that the schema allows fits, however it is escaped.
pub(super) const MAX_BATCH_BODY: usize = (MAX_BATCH + 1) * MAX_INVITE;

/// Whom to invite, into what, as what.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the schema of what `invitation` reads field by field")]
pub(super) struct CreateInvite {
    /// The organization to invite into. Give either this or `project_id`.
    organization_id: Option<Uuid>,
    /// The project to invite into. Accepting it also makes a member of its organization, with the lowest role.
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
    /// Who invites: an admin's id or a Clerk user id. They can't give a role above their own, and hear when it is accepted.
    #[schema(pattern = "^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|user_[A-Za-z0-9_]{1,59})$")]
    invited_by: Option<String>,
    /// How long the invite is valid: a number of minutes, hours or days, at most 30 days. Default: `INVITE_TTL`.
    #[schema(example = "7d", max_length = 16, pattern = "^0*[1-9][0-9]*[mhd]$")]
    expires_in: Option<String>,
    /// Whether its person is let in or asked. Default: `default`.
    acceptance: Option<Acceptance>,
    /// The mail's language (BCP 47).
    #[schema(pattern = "^[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*$", max_length = 35)]
    locale: Option<String>,
    /// A few words for the mail and the banner.
    #[schema(max_length = 2_000, pattern = r"^[^\u0000]*$")]
    message: Option<String>,
}

/// Many invites at once.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the schema of what `batch` reads field by field")]
pub(super) struct BatchRequest {
    /// The invites. What is no good invite gets its own answer and spoils no other.
    #[schema(max_items = 500)]
    invites: Vec<CreateInvite>,
}

/// The answers of a batch.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchAnswer {
    /// One for each item, in order.
    results: Vec<BatchResult>,
}

/// What became of one item: the answer that it would have got on its own.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum BatchResult {
    /// There is an invite.
    Invited {
        /// 201 for a new invite, 200 for one made fresh.
        #[schema(minimum = 200, maximum = 201)]
        status: u16,
        /// The invite, as it stands after the whole batch.
        invite: Box<InviteJson>,
    },
    /// It was refused.
    Refused {
        /// The problem's status.
        #[schema(minimum = 400, maximum = 599)]
        status: u16,
        /// Why, with a code that `POST /v1/invites` has, such as `already_member` or `daily_mail_cap`.
        problem: Problem,
    },
}

/// Invite an address
///
/// The invite, its mail and the job that sends it are stored together, or not at all. Inviting an address again that has
/// an open or expired invite into the same place makes that one fresh: role, inviter and expiry are the new ones. With the
/// new mail the old link is void; where no mail goes out, it goes on working. The same request within a minute changes
/// nothing.
///
/// No mail goes out within five minutes of the last one for this invite, after ten within a day, or once the address had
/// its `MAIL_CAP_ADDRESS` mails that day from all organizations together: `delivery.held` says so.
///
/// The mails of a day (UTC) are also counted per inviter and per organization: beyond `MAIL_CAP_INVITER` or
/// `MAIL_CAP_ORGANIZATION` nothing is stored, and `Retry-After` says when the next day begins.
#[utoipa::path(
    post, path = "/v1/invites", tag = tag::INVITES, operation_id = "createInvite",
    params(IdempotencyKey),
    request_body(content = CreateInvite, examples(
        ("organization" = (summary = "Into an organization", value = json!(example::create_invite()))),
        ("project" = (summary = "Into a project, with every field", value = json!(example::create_project_invite()))),
    )),
    responses(
        (status = 201, description = "A new invite", body = InviteJson,
            headers(("Location" = String, description = "The invite's path")), example = example::new_invite),
        (status = 200, description = "The open invite of this address, renewed", body = InviteJson,
            headers(("Location" = String, description = "The invite's path")), example = example::new_invite),
    ),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([
        Code::InvalidIdempotencyKey, Code::IdempotencyKeyReused, Code::RoleAboveInviter, Code::InviterBlocked,
        Code::AlreadyMember, Code::DailyMailCap
    ])))
)]
pub(super) async fn create(
    State(api): State<Api>,
    client: AppClient,
    idempotency: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let store = client.store(&api, 1);
    let kept = store
        .transaction(
            (&api, &client, &idempotency, &body),
            |tx, (api, client, idempotency, body)| create_in(tx, api, client, idempotency, body).boxed(),
        )
        .await?;
    Ok(with_location(kept))
}

async fn create_in(
    tx: &mut Tx,
    api: &Api,
    client: &AppClient,
    idempotency: &IdempotencyKey,
    body: &JsonBody,
) -> Result<Kept, Problem> {
    let config = &api.app.config;
    if let Some(repeated) = idempotency.repeated(tx, client, "/v1/invites", &body.bytes).await? {
        return created_again(tx, client, &repeated, body.value.clone(), config).await;
    }
    let invitation = invitation(Fields::of(body.value.clone())?, config)?;
    let answers = flows::invite(
        tx,
        std::slice::from_ref(&invitation),
        &config.roles,
        config.mail_caps,
        client.organizations(),
    )
    .await?;
    let now = tx.now();
    let Some(answer) = answers.into_iter().next() else {
        return Err(Problem::internal());
    };
    let invited = answer.map_err(|refusal| refused(refusal, &invitation, config, now))?;
    let json = invite_json(tx, invited.invite.id)
        .await?
        .ok_or_else(Problem::internal)?;
    let answer = kept(created_or_ok(&invited), &json)?;
    let outcome = Outcome {
        status: created_or_ok(&invited).as_u16(),
        invite: Some(json.id()),
        code: None,
    };
    idempotency.keep(tx, client, &answer, &[outcome]).await?;
    Ok(answer)
}

/// The answer to a request that was carried out before, as far as the key may see it now.
async fn created_again(
    tx: &mut Tx,
    client: &AppClient,
    repeated: &Repeated,
    request: Value,
    config: &Config,
) -> Result<Kept, Problem> {
    let views = visible(tx, client, repeated).await?;
    if let Some(answer) = repeated.as_it_was(client, |id| views.contains_key(&id)) {
        return Ok(answer);
    }
    let &[outcome] = repeated.outcomes() else {
        return Err(Code::IdempotencyKeyReused.into());
    };
    match outcome.invite.and_then(|id| views.get(&id)) {
        Some(invite) => kept(StatusCode::from_u16(outcome.status).unwrap_or_default(), invite),
        None => {
            let invitation = invitation(Fields::of(request)?, config)?;
            Err(refused(Refusal::UnknownTarget, &invitation, config, tx.now()))
        }
    }
}

/// The invites in an answer that was given before which the key may see now.
async fn visible(
    tx: &mut Tx,
    client: &AppClient,
    repeated: &Repeated,
) -> Result<HashMap<Uuid, InviteJson>, StoreError> {
    let outcomes = repeated.outcomes().iter();
    let ids: Vec<Uuid> = outcomes.filter_map(|outcome| outcome.invite).collect();
    let mut views = views_by_id(tx, &ids).await?;
    views.retain(|_, invite| client.may_use(invite.organization_id()));
    Ok(views)
}

fn kept(status: StatusCode, json: &impl Serialize) -> Result<Kept, Problem> {
    Ok(Kept {
        status: status.as_u16().into(),
        answer: serde_json::to_string(json).map_err(|_| Problem::internal())?,
    })
}

/// An invite's JSON as an answer that says where it is, given for the first time or again.
fn with_location(kept: Kept) -> Response {
    #[derive(Deserialize)]
    struct Identified {
        id: Uuid,
    }
    let id = serde_json::from_str(&kept.answer).map(|Identified { id }| id);
    let mut response = kept.into_response();
    if let Some(location) = id
        .ok()
        .and_then(|id| HeaderValue::try_from(format!("/v1/invites/{id}")).ok())
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Invite many addresses
///
/// Up to 500, in few round trips and one transaction; each counts as a call against the key's rate limit. Each item gets the answer that it would have got on its own, in
/// order; a bad one spoils no other. Where a daily cap leaves room for some of them only, the first ones have it, and each
/// of the others gets 429 `daily_mail_cap`.
#[utoipa::path(
    post, path = "/v1/invites/batch", tag = tag::INVITES, operation_id = "createInvites",
    params(IdempotencyKey),
    request_body(content = BatchRequest, example = example::batch),
    responses((status = 200, description = "One result for each invite", body = BatchAnswer, example = example::batch_answer)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::InvalidIdempotencyKey, Code::IdempotencyKeyReused])))
)]
pub(super) async fn batch(
    State(api): State<Api>,
    client: AppClient,
    idempotency: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let items = body.value["invites"].as_array().map_or(0, Vec::len);
    if items <= MAX_BATCH {
        client.pay_for(&api, items)?;
    }
    let store = client.store(&api, BATCH_SHARE);
    let kept = store
        .transaction(
            (&api, &client, &idempotency, &body),
            |tx, (api, client, idempotency, body)| batch_in(tx, api, client, idempotency, body).boxed(),
        )
        .await?;
    Ok(kept.into_response())
}

async fn batch_in(
    tx: &mut Tx,
    api: &Api,
    client: &AppClient,
    idempotency: &IdempotencyKey,
    body: &JsonBody,
) -> Result<Kept, Problem> {
    let config = &api.app.config;
    if let Some(repeated) = idempotency
        .repeated(tx, client, "/v1/invites/batch", &body.bytes)
        .await?
    {
        return batch_again(tx, client, &repeated, body.value.clone(), config).await;
    }
    let mut fields = Fields::of(body.value.clone())?;
    let items = fields.required("invites", items);
    let items = fields.finish(items)?;
    let read: Vec<Result<Invitation, Problem>> = items
        .into_iter()
        .map(|item| invitation(Fields::of(item)?, config))
        .collect();
    let good: Vec<Invitation> = read.iter().filter_map(|item| item.as_ref().ok().cloned()).collect();
    let answers = flows::invite(tx, &good, &config.roles, config.mail_caps, client.organizations()).await?;
    let now = tx.now();
    let ids: Vec<Uuid> = answers.iter().flatten().map(|invited| invited.invite.id).collect();
    let views = views_by_id(tx, &ids).await?;
    let mut answers = answers.into_iter();
    let results: Vec<BatchResult> = read
        .into_iter()
        .map(|item| {
            let invitation = item?;
            let answer = answers.next().ok_or_else(Problem::internal)?;
            let invited = answer.map_err(|refusal| refused(refusal, &invitation, config, now))?;
            let invite = views.get(&invited.invite.id).ok_or_else(Problem::internal)?;
            Ok(BatchResult::Invited {
                status: created_or_ok(&invited).as_u16(),
                invite: Box::new(invite.clone()),
            })
        })
        .map(|result: Result<BatchResult, Problem>| result.unwrap_or_else(BatchResult::of))
        .collect();
    let outcomes: Vec<Outcome> = results.iter().map(BatchResult::outcome).collect();
    let answer = kept(StatusCode::OK, &BatchAnswer { results })?;
    idempotency.keep(tx, client, &answer, &outcomes).await?;
    Ok(answer)
}

/// The answer to a batch that was carried out before, as far as the key may see it now.
async fn batch_again(
    tx: &mut Tx,
    client: &AppClient,
    repeated: &Repeated,
    request: Value,
    config: &Config,
) -> Result<Kept, Problem> {
    let views = visible(tx, client, repeated).await?;
    if let Some(answer) = repeated.as_it_was(client, |id| views.contains_key(&id)) {
        return Ok(answer);
    }
    let mut fields = Fields::of(request)?;
    let items = fields.required("invites", items).unwrap_or_default();
    if items.len() != repeated.outcomes().len() {
        return Err(Code::IdempotencyKeyReused.into());
    }
    let now = tx.now();
    let again = |(item, outcome): (Value, &Outcome)| -> Result<BatchResult, Problem> {
        if let Some(code) = outcome.code {
            return Err(code.into());
        }
        match outcome.invite.and_then(|id| views.get(&id)) {
            Some(invite) => Ok(BatchResult::Invited {
                status: outcome.status,
                invite: Box::new(invite.clone()),
            }),
            None => {
                let invitation = invitation(Fields::of(item)?, config)?;
                Err(refused(Refusal::UnknownTarget, &invitation, config, now))
            }
        }
    };
    let results = items.into_iter().zip(repeated.outcomes());
    let results = results
        .map(|item| again(item).unwrap_or_else(BatchResult::of))
        .collect();
    kept(StatusCode::OK, &BatchAnswer { results })
}

impl BatchResult {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Invited { status, invite } => Outcome {
                status: *status,
                invite: Some(invite.id()),
                code: None,
            },
            Self::Refused { status, problem } => Outcome {
                status: *status,
                invite: None,
                code: Some(problem.code),
            },
        }
    }

    fn of(problem: Problem) -> Self {
        Self::Refused {
            status: problem.status.as_u16(),
            problem,
        }
    }
}

fn created_or_ok(invited: &Invited) -> StatusCode {
    if invited.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    }
}

fn items(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(items) if items.len() <= MAX_BATCH => Ok(items),
        Value::Array(_) => Err(format!("must have at most {MAX_BATCH} items")),
        _ => Err("must be a list of invites".to_owned()),
    }
}

/// The same invite twice in a batch is shown twice, as it stands at the end.
async fn views_by_id(tx: &mut Tx, ids: &[Uuid]) -> Result<HashMap<Uuid, InviteJson>, StoreError> {
    let now = tx.now();
    let views = tx.invite_views(ids).await?;
    let by_id = views
        .into_iter()
        .map(|view| (view.invite.id, InviteJson::at(view, now)));
    Ok(by_id.collect())
}

/// Show an invite with its delivery
#[utoipa::path(
    get, path = "/v1/invites/{id}", tag = tag::INVITES, operation_id = "getInvite",
    params(("id" = Uuid, Path, description = "The invite's id", example = example::invite_id)),
    responses((status = 200, description = "The invite", body = InviteJson, example = example::invite)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
)]
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

/// A refusal as the caller sees it.
fn refused(refusal: Refusal, invitation: &Invitation, config: &Config, now: DateTime<Utc>) -> Problem {
    let (target, order) = match invitation.target {
        Target::Organization(_) => ("organization_id", &config.roles.organization),
        Target::Project(_) => ("project_id", &config.roles.project),
    };
    let field = |name: &'static str, detail: String| Problem::invalid(vec![FieldError::new(name, detail)]);
    match refusal {
        Refusal::UnknownTarget => field(target, "names nothing that is there; PUT it first".to_owned()),
        Refusal::UnknownRole => field("role", format!("must be one of {}", order.names().join(", "))),
        Refusal::UnknownInviter => field("invited_by", "names no known person".to_owned()),
        Refusal::OwnAddress => field("email", "is the inviter's own address".to_owned()),
        Refusal::RoleAboveInviter => Code::RoleAboveInviter.into(),
        Refusal::InviterBlocked => Code::InviterBlocked.into(),
        Refusal::TooManyMails => too_many_mails(now),
        Refusal::AlreadyMember => Code::AlreadyMember.into(),
    }
}

/// A daily cap is reached.
pub(super) fn too_many_mails(now: DateTime<Utc>) -> Problem {
    Problem::new(Code::DailyMailCap).retry_after(seconds_of(caps_reset_at(now) - now))
}

/// Rounded up, so that whoever waits so long is not told to wait again.
pub(super) fn seconds_of(wait: TimeDelta) -> u32 {
    u32::try_from((wait + TimeDelta::milliseconds(999)).num_seconds())
        .unwrap_or(u32::MAX)
        .max(1)
}
