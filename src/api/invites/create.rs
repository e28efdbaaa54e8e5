//! Inviting: one address, or a batch of them.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::request::{MAX_INVITE, refused};
use super::views_by_id;
use crate::api::auth::AppClient;
use crate::api::body::JsonBody;
use crate::api::idempotency::{IdempotencyKey, Kept, Outcome, Repeated};
use crate::api::{Api, example, tag};
use crate::config::Config;
use crate::fields::{Fields, body};
use crate::flows::{self, ReadRequest};
use crate::invites::{CreateInvite, InviteRequest};
use crate::problem::{Code, Problem};
use crate::store::Tx;
use crate::view::InviteJson;

/// Invites in one request.
const MAX_BATCH: usize = 500;
/// Bytes of a batch: every batch that the schema allows fits, however it is escaped.
pub(super) const MAX_BATCH_BODY: usize = (MAX_BATCH + 1) * MAX_INVITE;

body! {
    /// Many invites at once.
    pub(super) struct BatchRequest {
        /// The invites. An invalid one gets its own error and does not affect the others.
        #[schema(value_type = Vec<CreateInvite>, max_items = 500)]
        invites: Vec<Value> = required(items),
    }
}

/// The answers of a batch.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchAnswer {
    /// One for each item, in order.
    results: Vec<BatchResult>,
}

/// The result of one item: the answer that it would get as a request of its own.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum BatchResult {
    /// The invite was created or renewed.
    Invited {
        /// 201 for a new invite, 200 for a renewed one.
        #[schema(minimum = 200, maximum = 201)]
        status: u16,
        /// The invite, as it is after the whole batch.
        invite: Box<InviteJson>,
    },
    /// It was refused.
    Refused {
        /// The problem's status.
        #[schema(minimum = 400, maximum = 599)]
        status: u16,
        /// Why, with a code of `POST /v1/invites`, such as `already_member` or `daily_mail_cap`.
        problem: Problem,
    },
}

/// Invite an address
///
/// The invite, its mail and the job that sends it are stored together, or not at all. If the address already has an open or
/// expired invite to the same organization or project, that invite is renewed: it gets the new role, inviter and expiry. If
/// a new mail is sent, the old link is void; if not, the old link still works. Repeating the same request within a minute
/// changes nothing.
///
/// No mail is sent within five minutes of the last one for this invite, after ten within a day, or after the address has had
/// `MAIL_CAP_ADDRESS` mails that day from all organizations together: `delivery.held` says why.
///
/// The mails of a day (UTC) are also counted per inviter and per organization. Beyond `MAIL_CAP_INVITER` or
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
    let kind = Kind::One;
    let call = Call {
        api,
        client,
        idempotency,
        body,
        kind,
    };
    Ok(with_location(call.answer().await?))
}

/// The answer with the invite's path in `Location`, for a new invite and for a repeated request.
fn with_location(kept: Kept) -> Response {
    let location = kept.invite.map(|id| format!("/v1/invites/{id}"));
    let mut response = kept.into_response();
    if let Some(location) = location.and_then(|path| HeaderValue::try_from(path).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Invite many addresses
///
/// Up to 500, in few round trips and one transaction; each counts as a call against the key's rate limit. Each item gets the
/// answer that it would get as a request of its own, in order; an invalid item does not affect the others. If a daily cap
/// leaves room for only some of them, the first ones are invited, and each of the others gets 429 `daily_mail_cap`.
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
        client.pay_for(&api, "invites", items)?;
    }
    let kind = Kind::Batch;
    let call = Call {
        api,
        client,
        idempotency,
        body,
        kind,
    };
    Ok(call.answer().await?.into_response())
}

#[derive(Clone, Copy)]
enum Kind {
    One,
    Batch,
}

/// A call that invites, carried out once per `Idempotency-Key`.
struct Call {
    api: Api,
    client: AppClient,
    idempotency: IdempotencyKey,
    body: JsonBody,
    kind: Kind,
}

impl Call {
    async fn answer(self) -> Result<Kept, Problem> {
        let share = match self.kind {
            Kind::One => 1,
            Kind::Batch => self.api.limits.batch_share(),
        };
        let store = self.client.store(&self.api, share);
        store.transaction(self, |tx, call| call.answer_in(tx).boxed()).await
    }

    async fn answer_in(&self, tx: &mut Tx) -> Result<Kept, Problem> {
        let path = match self.kind {
            Kind::One => "/v1/invites",
            Kind::Batch => "/v1/invites/batch",
        };
        let (client, body) = (&self.client, &self.body.bytes);
        if let Some(repeated) = self.idempotency.repeated(tx, client, path, body).await? {
            return self.answer_again(tx, &repeated).await;
        }
        let results = self.invite(tx).await?;
        let outcomes: Vec<Outcome> = results.iter().map(BatchResult::outcome).collect();
        let answer = self.answer_of(results)?;
        self.idempotency.keep(tx, client, &answer, &outcomes).await?;
        Ok(answer)
    }

    async fn invite(&self, tx: &mut Tx) -> Result<Vec<BatchResult>, Problem> {
        let config: &Config = &self.api.app.config;
        let requests: Vec<ReadRequest> = self
            .items()?
            .into_iter()
            .map(|item| InviteRequest::parse(item, &config.roles, &config.redirects))
            .collect();
        let answers = flows::invite(tx, &requests, &config.into(), self.client.organizations()).await?;
        let now = tx.now();
        let ids: Vec<Uuid> = answers.iter().flatten().map(|invited| invited.invite.id).collect();
        let views = views_by_id(&self.api, tx, &ids).await?;
        let results = answers.into_iter().map(|answer| {
            let invited = answer.map_err(|refusal| refused(refusal, now))?;
            let invite = views.get(&invited.invite.id).ok_or_else(Problem::internal)?;
            Ok(BatchResult::Invited {
                status: if invited.is_new { 201 } else { 200 },
                invite: Box::new(invite.clone()),
            })
        });
        Ok(results.map(|result| result.unwrap_or_else(BatchResult::of)).collect())
    }

    /// The answer to a request that was carried out before, limited to what the key may see now.
    async fn answer_again(&self, tx: &mut Tx, repeated: &Repeated) -> Result<Kept, Problem> {
        let ids: Vec<Uuid> = repeated
            .outcomes()
            .iter()
            .filter_map(|outcome| outcome.invite)
            .collect();
        let mut views = views_by_id(&self.api, tx, &ids).await?;
        views.retain(|_, invite| self.client.may_use(invite.organization_id()));
        if let Some(answer) = repeated.as_it_was(&self.client, |id| views.contains_key(&id)) {
            return Ok(answer);
        }
        let items = self.items()?;
        if items.len() != repeated.outcomes().len() {
            return Err(Code::IdempotencyKeyReused.into());
        }
        let results = items.into_iter().zip(repeated.outcomes());
        let results = results.map(|(item, outcome)| {
            let result = self.result_again(item, outcome, &views);
            result.unwrap_or_else(BatchResult::of)
        });
        self.answer_of(results.collect())
    }

    fn result_again(
        &self,
        item: Value,
        outcome: &Outcome,
        views: &HashMap<Uuid, InviteJson>,
    ) -> Result<BatchResult, Problem> {
        if let Some(code) = outcome.code {
            return Err(code.into());
        }
        if let Some(invite) = outcome.invite.and_then(|id| views.get(&id)) {
            return Ok(BatchResult::Invited {
                status: outcome.status,
                invite: Box::new(invite.clone()),
            });
        }
        // The key may not use the organization any more.
        let config = &self.api.app.config;
        let request = InviteRequest::parse(item, &config.roles, &config.redirects);
        Err(Problem::invalid(match request {
            Ok(request) => vec![flows::unknown_target(request.target)],
            Err(invalid) => invalid.errors,
        }))
    }

    fn items(&self) -> Result<Vec<Value>, Problem> {
        let value = self.body.value.clone();
        match self.kind {
            Kind::One => Ok(vec![value]),
            Kind::Batch => {
                let mut fields = Fields::of(value).map_err(Problem::invalid)?;
                let body = BatchRequest::read(&mut fields);
                Ok(fields.finish(body).map_err(Problem::invalid)?.invites)
            }
        }
    }

    fn answer_of(&self, mut results: Vec<BatchResult>) -> Result<Kept, Problem> {
        if let Kind::Batch = self.kind {
            return Kept::json(200, &BatchAnswer { results }, None);
        }
        match results.pop().ok_or_else(Problem::internal)? {
            BatchResult::Invited { status, invite } => Kept::json(status, &invite, Some(invite.id())),
            BatchResult::Refused { problem, .. } => Err(problem),
        }
    }
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

fn items(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(items) if items.len() <= MAX_BATCH => Ok(items),
        Value::Array(_) => Err(format!("must have at most {MAX_BATCH} items")),
        _ => Err("must be a list of invites".to_owned()),
    }
}
