//! Many members in one request.

use axum::Json;
use axum::extract::State;
use futures::FutureExt as _;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use super::{learn, refused};
use crate::api::auth::AppClient;
use crate::api::body::MaxBody;
use crate::api::{Api, example, tag};
use crate::fields::{Fields, body};
use crate::flows::{MemberRefusal, set_members};
use crate::invites::members::{BatchMember, MemberRequest, Membership};
use crate::problem::Problem;
use crate::store::{AppRefusal, Store};

/// Members in one request.
const MAX_BATCH: usize = 500;
/// Bytes of a batch: every batch that the schema allows fits, however it is escaped.
const MAX_BATCH_BODY: usize = (MAX_BATCH + 1) * 4_000;

pub(super) fn for_the_app() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(batch).layer(axum::Extension(MaxBody(MAX_BATCH_BODY))))
}

body! {
    /// Many memberships at once.
    pub(in crate::api) struct MemberBatch {
        /// The memberships. An invalid one gets its own error and does not affect the others.
        #[schema(value_type = Vec<BatchMember>, max_items = 500)]
        members: Vec<Value> = required(items),
    }
}

/// The answers of a batch.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct MemberBatchAnswer {
    /// One for each item, in order.
    results: Vec<MemberResult>,
}

/// The result of one item.
#[derive(Serialize, ToSchema)]
struct MemberResult {
    /// 201 for a new member, 200 for one whose role was changed or is the same, else the problem's status.
    #[schema(minimum = 200, maximum = 599)]
    status: u16,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    problem: Option<Problem>,
}

fn items(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(items) if items.len() <= MAX_BATCH => Ok(items),
        Value::Array(_) => Err(format!("must have at most {MAX_BATCH} items")),
        _ => Err("must be a list of memberships".to_owned()),
    }
}

/// Set many members
///
/// Up to 500, in few round trips and one transaction; each counts as a call against the key's rate limit. Each item gets the
/// answer of a request of its own, in order; an invalid item does not affect the others.
#[utoipa::path(
    post, path = "/v1/members/batch", tag = tag::MEMBERS, operation_id = "putMembers",
    request_body(content = MemberBatch, example = example::member_batch),
    responses((status = 200, description = "One result for each member", body = MemberBatchAnswer,
        example = example::member_batch_answer)),
    security(("api_key" = [])),
)]
async fn batch(
    State(api): State<Api>,
    client: AppClient,
    mut fields: Fields,
) -> Result<Json<MemberBatchAnswer>, Problem> {
    let body = MemberBatch::read(&mut fields);
    let items = fields.finish(body).map_err(Problem::invalid)?.members;
    client.pay_for(&api, "members", items.len())?;
    let roles = &api.app.config.roles;
    let read: Vec<_> = items
        .into_iter()
        .map(|item| MemberRequest::parse(item, roles))
        .collect();
    let valid: Vec<MemberRequest> = read.iter().filter_map(|item| item.as_ref().ok().cloned()).collect();
    let mut set = set_all(&api, &client, &valid).await?.into_iter();
    let results = read.into_iter().map(|item| {
        let answer = match item {
            Err(errors) => Err(Problem::invalid(errors)),
            Ok(_) => set
                .next()
                .ok_or_else(Problem::internal)
                .and_then(|set| set.map_err(refused)),
        };
        MemberResult::of(answer)
    });
    Ok(Json(MemberBatchAnswer {
        results: results.collect(),
    }))
}

/// Sets them in one transaction. An app's table may need a name or address that only Clerk knows: those people are set
/// once Clerk has told of them.
async fn set_all(
    api: &Api,
    client: &AppClient,
    requests: &[MemberRequest],
) -> Result<Vec<Result<Membership, MemberRefusal>>, Problem> {
    let store = client.store(api, api.limits.batch_share());
    let mut answers = set_in(&store, api, client, requests).await?;
    let is_unknown = |answer: &Result<_, _>| *answer == Err(MemberRefusal::App(AppRefusal::NotSynced));
    let unknown: Vec<usize> = (0..answers.len()).filter(|&i| is_unknown(&answers[i])).collect();
    let ids = unknown.iter().map(|&i| requests[i].clerk_user_id.as_str()).collect();
    if learn(api, &store, ids).await? {
        let again: Vec<MemberRequest> = unknown.iter().map(|&i| requests[i].clone()).collect();
        for (i, answer) in unknown.into_iter().zip(set_in(&store, api, client, &again).await?) {
            answers[i] = answer;
        }
    }
    Ok(answers)
}

async fn set_in(
    store: &Store,
    api: &Api,
    client: &AppClient,
    requests: &[MemberRequest],
) -> Result<Vec<Result<Membership, MemberRefusal>>, Problem> {
    let roles = &api.app.config.roles;
    store
        .transaction((requests, client), |tx, (requests, client)| {
            async move { Ok(set_members(tx, requests, roles, client.organizations()).await?) }.boxed()
        })
        .await
}

impl MemberResult {
    fn of(answer: Result<Membership, Problem>) -> Self {
        let (status, problem) = match answer {
            Ok(Membership::Added) => (201, None),
            Ok(_) => (200, None),
            Err(problem) => (problem.status.as_u16(), Some(problem)),
        };
        Self { status, problem }
    }
}
