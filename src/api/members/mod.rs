//! Who is in an organization or a project: listed, set and removed by the app.

mod batch;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::{FutureExt as _, StreamExt as _};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::auth::AppClient;
use super::banner::ask_clerk;
use super::body::TargetPath;
use super::{Api, example, tag};
use crate::app_id::AppId;
use crate::fields::{Fields, line, page_limit};
use crate::flows::{MemberRefusal, Removal, remove_member, set_members};
use crate::invites::members::{LastOwner, MemberRequest, Membership, PutMember};
use crate::invites::{PersonRef, Target, is_clerk_user_id};
use crate::problem::{Code, Problem};
use crate::store::{Member, MemberPage, Person, Profile, Store, Tx};
use crate::view::{Rfc3339, full_name};

/// Members on a page, by default.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 500;
/// How many questions about people Clerk gets at the same time.
const ASKED_AT_ONCE: usize = 8;
/// Called by the app, with its API key.
pub(super) fn for_the_app() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(organization_members))
        .routes(routes!(project_members))
        .routes(routes!(put_organization_member, remove_organization_member))
        .routes(routes!(put_project_member, remove_project_member))
        .merge(batch::for_the_app())
}

/// A member.
#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub(super) struct MemberJson {
    /// The id in `admins`.
    admin_id: Uuid,
    /// Clerk's id of the person.
    #[schema(required)]
    clerk_user_id: Option<String>,
    /// Their primary address; null until Clerk has told of them.
    #[schema(required)]
    email: Option<String>,
    /// First and last name, as far as there are any.
    #[schema(required)]
    name: Option<String>,
    /// Their role here.
    role: String,
    /// Since when they are a member.
    since: Rfc3339,
}

/// A page of members, without those who were removed.
#[derive(Serialize, ToSchema)]
pub(super) struct Members {
    /// The members, in the order of their `admin_id`.
    items: Vec<MemberJson>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

impl From<Member> for MemberJson {
    fn from(member: Member) -> Self {
        Self {
            admin_id: member.admin_id,
            clerk_user_id: member.clerk_user_id,
            email: member.email,
            name: full_name(member.first_name.as_deref(), member.last_name.as_deref()),
            role: member.role,
            since: Rfc3339(member.since),
        }
    }
}

/// List organization members
///
/// In pages, which stay stable while people come and go: follow `next_cursor` until it is null.
#[utoipa::path(
    get, path = "/v1/organizations/{id}/members", tag = tag::MEMBERS, operation_id = "listOrganizationMembers",
    params(
        ("id" = AppId, Path, description = "The organization's id", example = example::organization_id),
        (
            "role" = Option<String>, Query, description = "Only members with this role", min_length = 1, max_length = 64,
            pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\u2028\u2029\s][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
        ),
        ("limit" = Option<u32>, Query, description = "Page size; 100 by default", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the previous page"),
    ),
    responses((status = 200, description = "A page of its members", body = Members, example = example::members)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound, Code::InvalidRequest])))
)]
pub(super) async fn organization_members(
    State(api): State<Api>,
    client: AppClient,
    TargetPath(id): TargetPath,
    RawQuery(query): RawQuery,
) -> Result<Json<Members>, Problem> {
    list(&api, &client, Target::Organization(id.key()), query.as_deref()).await
}

/// List project members
///
/// Those with a role of the project itself. Admins and owners of its organization manage it, too. In pages, which stay stable while people come and go: follow `next_cursor` until it is null.
#[utoipa::path(
    get, path = "/v1/projects/{id}/members", tag = tag::MEMBERS, operation_id = "listProjectMembers",
    params(
        ("id" = AppId, Path, description = "The project's id", example = example::project_id),
        (
            "role" = Option<String>, Query, description = "Only members with this role", min_length = 1, max_length = 64,
            pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\u2028\u2029\s][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
        ),
        ("limit" = Option<u32>, Query, description = "Page size; 100 by default", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the previous page"),
    ),
    responses((status = 200, description = "A page of its members", body = Members, example = example::members)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound, Code::InvalidRequest])))
)]
pub(super) async fn project_members(
    State(api): State<Api>,
    client: AppClient,
    TargetPath(id): TargetPath,
    RawQuery(query): RawQuery,
) -> Result<Json<Members>, Problem> {
    list(&api, &client, Target::Project(id.key()), query.as_deref()).await
}

async fn list(api: &Api, client: &AppClient, target: Target, query: Option<&str>) -> Result<Json<Members>, Problem> {
    let mut fields = Fields::of_query(query);
    let limit = fields.optional("limit", page_limit(MAX_PAGE)).unwrap_or(PAGE);
    let role = fields.optional("role", line(64));
    let after = fields.optional("cursor", read_cursor);
    fields.finish(Some(())).map_err(Problem::invalid)?;
    let mut tx = api.app.store.read().await?;
    must_use(&mut tx, client, target).await?;
    let page = after.map_or(MemberPage::First, MemberPage::After);
    // One more than the limit shows whether there is a next page.
    let mut found = tx.members(target, page, role.as_deref(), limit + 1).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let last = found.last().filter(|_| has_more);
    Ok(Json(Members {
        next_cursor: last.map(|member| URL_SAFE_NO_PAD.encode(member.admin_id)),
        items: found.into_iter().map(MemberJson::from).collect(),
    }))
}

fn read_cursor(value: Value) -> Result<Uuid, String> {
    value
        .as_str()
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .and_then(|bytes| Uuid::from_slice(&bytes).ok())
        .ok_or_else(|| "must be the next_cursor of an earlier answer".to_owned())
}

/// 404 unless the target exists and the key may use it.
async fn must_use(tx: &mut Tx, client: &AppClient, target: Target) -> Result<(), Problem> {
    let info = match target {
        Target::Organization(id) => tx.organizations(&[id]).await?,
        Target::Project(id) => tx.projects(&[id]).await?,
    };
    let info = info.first().ok_or_else(Problem::not_found)?;
    client.must_use(info.organization_id)
}

/// Set organization member
///
/// Also for somebody whom Clerk has not told of yet. Their open invites to the same organization are revoked. An equal request changes nothing.
#[utoipa::path(
    put, path = "/v1/organizations/{id}/members/{clerk_user_id}", tag = tag::MEMBERS, operation_id = "putOrganizationMember",
    params(
        ("id" = AppId, Path, description = "The organization's id", example = example::organization_id),
        ("clerk_user_id" = String, Path, description = "Clerk's id of the person",
            pattern = "^user_[A-Za-z0-9_]{1,59}$", example = example::clerk_user_id),
    ),
    request_body(content = PutMember, example = example::put_organization_member),
    responses(
        (status = 201, description = "A new member", body = MemberJson, example = example::organization_member),
        (status = 200, description = "They were a member, and have this role", body = MemberJson, example = example::organization_member),
    ),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([
        Code::NotFound, Code::PersonBlocked, Code::LastOwner, Code::NotSynced, Code::AppMustCreate, Code::AppRefused
    ])))
)]
pub(super) async fn put_organization_member(
    State(api): State<Api>,
    client: AppClient,
    Path((id, clerk_user_id)): Path<(String, String)>,
    fields: Fields,
) -> Result<(StatusCode, Json<MemberJson>), Problem> {
    put(
        &api,
        &client,
        Target::Organization(read_id(&id)?),
        &clerk_user_id,
        fields,
    )
    .await
}

/// Remove organization member
///
/// Leaving an organization also leaves its projects. Whoever is not a member stays none. They can be invited again.
#[utoipa::path(
    delete, path = "/v1/organizations/{id}/members/{clerk_user_id}", tag = tag::MEMBERS, operation_id = "removeOrganizationMember",
    params(
        ("id" = AppId, Path, description = "The organization's id", example = example::organization_id),
        ("clerk_user_id" = String, Path, description = "Clerk's id of the person",
            pattern = "^user_[A-Za-z0-9_]{1,59}$", example = example::clerk_user_id),
        ("force" = Option<bool>, Query, description = "Also remove the last holder of the highest role"),
    ),
    responses((status = 204, description = "They are no member")),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound, Code::LastOwner, Code::InvalidRequest])))
)]
pub(super) async fn remove_organization_member(
    State(api): State<Api>,
    client: AppClient,
    Path((id, clerk_user_id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    let force = read_force(query.as_deref())?;
    remove(
        &api,
        &client,
        Target::Organization(read_id(&id)?),
        &clerk_user_id,
        force,
    )
    .await
}

/// Set project member
///
/// Whoever is not in its organization becomes a member of it with the lowest role. Their open invites to the same project are revoked. An equal request changes nothing.
#[utoipa::path(
    put, path = "/v1/projects/{id}/members/{clerk_user_id}", tag = tag::MEMBERS, operation_id = "putProjectMember",
    params(
        ("id" = AppId, Path, description = "The project's id", example = example::project_id),
        ("clerk_user_id" = String, Path, description = "Clerk's id of the person",
            pattern = "^user_[A-Za-z0-9_]{1,59}$", example = example::clerk_user_id),
    ),
    request_body(content = PutMember, example = example::put_project_member),
    responses(
        (status = 201, description = "A new member", body = MemberJson, example = example::project_member),
        (status = 200, description = "They were a member, and have this role", body = MemberJson, example = example::project_member),
    ),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([
        Code::NotFound, Code::PersonBlocked, Code::NotSynced, Code::AppMustCreate, Code::AppRefused
    ])))
)]
pub(super) async fn put_project_member(
    State(api): State<Api>,
    client: AppClient,
    Path((id, clerk_user_id)): Path<(String, String)>,
    fields: Fields,
) -> Result<(StatusCode, Json<MemberJson>), Problem> {
    put(&api, &client, Target::Project(read_id(&id)?), &clerk_user_id, fields).await
}

/// Remove project member
///
/// Whoever is not a member stays none. They can be invited again.
#[utoipa::path(
    delete, path = "/v1/projects/{id}/members/{clerk_user_id}", tag = tag::MEMBERS, operation_id = "removeProjectMember",
    params(
        ("id" = AppId, Path, description = "The project's id", example = example::project_id),
        ("clerk_user_id" = String, Path, description = "Clerk's id of the person",
            pattern = "^user_[A-Za-z0-9_]{1,59}$", example = example::clerk_user_id),
    ),
    responses((status = 204, description = "They are no member")),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
)]
pub(super) async fn remove_project_member(
    State(api): State<Api>,
    client: AppClient,
    Path((id, clerk_user_id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let force = false;
    remove(&api, &client, Target::Project(read_id(&id)?), &clerk_user_id, force).await
}

fn read_id(text: &str) -> Result<Uuid, Problem> {
    let id = AppId::parse(text).ok_or(Code::InvalidId)?;
    Ok(id.key())
}

fn read_force(query: Option<&str>) -> Result<bool, Problem> {
    let mut fields = Fields::of_query(query);
    let force = fields.optional("force", |value| match value.as_str() {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        _ => Err("must be true or false".to_owned()),
    });
    fields.finish(Some(force.unwrap_or(false))).map_err(Problem::invalid)
}

async fn put(
    api: &Api,
    client: &AppClient,
    target: Target,
    clerk_user_id: &str,
    mut fields: Fields,
) -> Result<(StatusCode, Json<MemberJson>), Problem> {
    if !is_clerk_user_id(clerk_user_id) {
        return Err(Code::InvalidId.into());
    }
    let order = api.app.config.roles.order(target.kind());
    let body = PutMember::read(&mut fields, &[order]);
    let request = MemberRequest {
        target,
        clerk_user_id: clerk_user_id.to_owned(),
        role: fields.finish(body).map_err(Problem::invalid)?.role,
    };
    let store = client.store(api, 1);
    let put = async || {
        store
            .transaction((api, client, &request), |tx, (api, client, request)| {
                put_in(tx, api, client, request).boxed()
            })
            .await
    };
    let answer = put().await;
    let is_unknown = answer
        .as_ref()
        .is_err_and(|problem: &Problem| problem.code == Code::NotSynced);
    if is_unknown && learn(api, &store, vec![clerk_user_id]).await? {
        return put().await;
    }
    answer
}

async fn put_in(
    tx: &mut Tx,
    api: &Api,
    client: &AppClient,
    request: &MemberRequest,
) -> Result<(StatusCode, Json<MemberJson>), Problem> {
    let set = set_members(
        tx,
        std::slice::from_ref(request),
        &api.app.config.roles,
        client.organizations(),
    )
    .await?;
    let set = set.into_iter().next().ok_or_else(Problem::internal)?;
    let status = match set.map_err(refused)? {
        Membership::Added => StatusCode::CREATED,
        Membership::Changed | Membership::Unchanged => StatusCode::OK,
    };
    let person = PersonRef::Clerk(request.clerk_user_id.clone());
    let admin_id = tx.live_people(std::slice::from_ref(&person)).await?.remove(&person);
    let page = MemberPage::Only(admin_id.ok_or_else(Problem::internal)?);
    let member = tx.members(request.target, page, None, 1).await?.pop();
    Ok((status, Json(member.ok_or_else(Problem::internal)?.into())))
}

fn refused(refusal: MemberRefusal) -> Problem {
    match refusal {
        MemberRefusal::UnknownTarget => Problem::not_found(),
        MemberRefusal::PersonBlocked => Code::PersonBlocked.into(),
        MemberRefusal::LastOwner => Code::LastOwner.into(),
        MemberRefusal::App(refusal) => refusal.into(),
    }
}

/// Asks Clerk about people whose name or address an app's table must have. Whether any is known now.
async fn learn(api: &Api, store: &Store, clerk_user_ids: Vec<&str>) -> Result<bool, Problem> {
    if clerk_user_ids.is_empty() || api.app.clerk.is_none() {
        return Ok(false);
    }
    let mut asked = Vec::with_capacity(clerk_user_ids.len());
    for id in clerk_user_ids {
        asked.push(ask_clerk(api, id));
    }
    let told: Vec<_> = futures::stream::iter(asked)
        .buffer_unordered(ASKED_AT_ONCE)
        .collect()
        .await;
    let profiles: Vec<Profile> = told.into_iter().filter_map(|told| told.ok().flatten()).collect();
    let profiles: Vec<&Profile> = profiles.iter().collect();
    let saved: Vec<Person> = store
        .transaction(&profiles, |tx, profiles| tx.save_people(profiles).boxed())
        .await?;
    Ok(!saved.is_empty())
}

async fn remove(
    api: &Api,
    client: &AppClient,
    target: Target,
    clerk_user_id: &str,
    force: bool,
) -> Result<StatusCode, Problem> {
    if !is_clerk_user_id(clerk_user_id) {
        return Err(Code::InvalidId.into());
    }
    let removal = Removal {
        target,
        clerk_user_id,
        organizations: client.organizations(),
        force,
        roles: &api.app.config.roles,
    };
    end(&client.store(api, 1), removal).await
}

/// 404 for targets that the caller may not use.
pub(super) async fn end(store: &Store, removal: Removal<'_>) -> Result<StatusCode, Problem> {
    let removed: Option<Result<(), LastOwner>> = store
        .transaction(removal, |tx, removal| remove_member(tx, *removal).boxed())
        .await?;
    match removed {
        None => Err(Problem::not_found()),
        Some(Err(LastOwner)) => Err(Code::LastOwner.into()),
        Some(Ok(())) => Ok(StatusCode::NO_CONTENT),
    }
}
