//! Organizations and projects, for apps that don't share the database, and who is in them.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt as _;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::auth::AppClient;
use super::body::{Fields, Id, line, page_limit, uuid};
use super::{example, tag};
use crate::problem::{Code, FieldError, Problem};
use crate::store::{Member, Put, PutRefusal, TargetInfo};
use crate::view::{Rfc3339, full_name};

/// Characters.
const MAX_NAME: usize = 200;
/// Members on a page, unless the caller says otherwise.
const PAGE: u32 = 100;
/// At most.
const MAX_PAGE: u32 = 500;

/// An organization that was made or renamed.
#[derive(Serialize, ToSchema)]
#[schema(as = Organization)]
pub(super) struct OrganizationJson {
    /// Its id.
    id: Uuid,
    /// Its name.
    name: String,
    /// When it was made.
    created_at: Rfc3339,
    /// When it last changed.
    updated_at: Rfc3339,
}

/// A project that was made, renamed or moved.
#[derive(Serialize, ToSchema)]
#[schema(as = Project)]
pub(super) struct ProjectJson {
    /// Its id.
    id: Uuid,
    /// The organization that it belongs to.
    organization_id: Uuid,
    /// Its name.
    name: String,
    /// When it was made.
    created_at: Rfc3339,
    /// When it last changed.
    updated_at: Rfc3339,
}

/// Somebody who is in.
#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub(super) struct MemberJson {
    /// The id in `admins`.
    admin_id: Uuid,
    /// Clerk's id of the person.
    #[schema(required)]
    clerk_user_id: Option<String>,
    /// Their primary address.
    #[schema(required)]
    email: Option<String>,
    /// First and last name, as far as there are any.
    #[schema(required)]
    name: Option<String>,
    /// Their role here.
    role: String,
    /// Since when they are in.
    since: Rfc3339,
}

/// A page of those who are in, without those who were removed.
#[derive(Serialize, ToSchema)]
pub(super) struct Members {
    /// The members, in the order of their `admin_id`.
    items: Vec<MemberJson>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// What an organization shall be called.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the schema of what `put_organization` reads field by field")]
pub(super) struct PutOrganization {
    /// One line, of which something can be seen. usher answers it as it is: whoever shows it escapes it.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
    )]
    name: String,
}

/// What a project shall be called, and where it belongs.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the schema of what `put_project` reads field by field")]
pub(super) struct PutProject {
    /// The organization that it belongs to; another one moves it.
    organization_id: Uuid,
    /// One line, of which something can be seen. usher answers it as it is: whoever shows it escapes it.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
    )]
    name: String,
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

/// Make or rename an organization
///
/// For apps that don't share the database. The id is yours to choose. What was deleted stays deleted.
#[utoipa::path(
    put, path = "/v1/organizations/{id}", tag = tag::ORGANIZATIONS, operation_id = "putOrganization",
    params(("id" = Uuid, Path, description = "The organization's id", example = example::organization_id)),
    request_body(content = PutOrganization, example = example::put_organization),
    responses(
        (status = 201, description = "Created", body = OrganizationJson, example = example::organization),
        (status = 200, description = "It existed; its name is updated", body = OrganizationJson, example = example::organization),
    ),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound, Code::OrganizationDeleted])))
)]
pub(super) async fn put_organization(
    State(api): State<Api>,
    client: AppClient,
    Id(id): Id,
    mut fields: Fields,
) -> Result<(StatusCode, Json<OrganizationJson>), Problem> {
    client.must_use(id)?;
    let name = fields.required("name", line(MAX_NAME));
    let name = fields.finish(name)?;
    let store = client.store(&api, 1);
    let put = store
        .transaction(name, |tx, name| tx.put_organization(id, name).boxed())
        .await?;
    let (status, target) = answered(put)?;
    let body = OrganizationJson {
        id: target.id,
        name: target.name,
        created_at: Rfc3339(target.created_at),
        updated_at: Rfc3339(target.updated_at),
    };
    Ok((status, Json(body)))
}

/// Make, rename or move a project
///
/// For apps that don't share the database. The id is yours to choose; its organization must be there. Moving it moves
/// nobody: whoever is in the project stays in it, and in the organizations that they are in. What was deleted stays deleted.
#[utoipa::path(
    put, path = "/v1/projects/{id}", tag = tag::ORGANIZATIONS, operation_id = "putProject",
    params(("id" = Uuid, Path, description = "The project's id", example = example::project_id)),
    request_body(content = PutProject, example = example::put_project),
    responses(
        (status = 201, description = "Created", body = ProjectJson, example = example::project),
        (status = 200, description = "It existed and is updated", body = ProjectJson, example = example::project),
    ),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound, Code::OrganizationDeleted, Code::ProjectDeleted])))
)]
pub(super) async fn put_project(
    State(api): State<Api>,
    client: AppClient,
    Id(id): Id,
    mut fields: Fields,
) -> Result<(StatusCode, Json<ProjectJson>), Problem> {
    let organization_id = fields.required("organization_id", uuid);
    let name = fields.required("name", line(MAX_NAME));
    let (organization_id, name) = fields.finish(organization_id.zip(name))?;
    let store = client.store(&api, 1);
    let put = store
        .transaction((&client, &name), |tx, (client, name)| {
            tx.put_project(id, organization_id, name, client.organizations())
                .boxed()
        })
        .await?;
    let (status, target) = answered(put)?;
    let body = ProjectJson {
        id: target.id,
        organization_id: target.organization_id,
        name: target.name,
        created_at: Rfc3339(target.created_at),
        updated_at: Rfc3339(target.updated_at),
    };
    Ok((status, Json(body)))
}

fn answered(put: Put) -> Result<(StatusCode, TargetInfo), Problem> {
    match put {
        Put::Made(target) => Ok((StatusCode::CREATED, target)),
        Put::Changed(target) => Ok((StatusCode::OK, target)),
        Put::Refused(PutRefusal::Foreign) => Err(Problem::not_found()),
        Put::Refused(PutRefusal::UnknownOrganization) => Err(Problem::invalid(vec![FieldError::new(
            "organization_id",
            "does not exist; PUT it first",
        )])),
        Put::Refused(PutRefusal::OrganizationDeleted) => Err(Code::OrganizationDeleted.into()),
        Put::Refused(PutRefusal::ProjectDeleted) => Err(Code::ProjectDeleted.into()),
    }
}

/// Who is in an organization
///
/// In pages, which stay stable while people come and go: follow `next_cursor` until it is null.
#[utoipa::path(
    get, path = "/v1/organizations/{id}/members", tag = tag::ORGANIZATIONS, operation_id = "listOrganizationMembers",
    params(
        ("id" = Uuid, Path, description = "The organization's id", example = example::organization_id),
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
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<Json<Members>, Problem> {
    client.must_use(id)?;
    let page = MemberPage::asked(query.as_deref())?;
    let mut tx = api.app.store.read().await?;
    if tx.organizations(&[id]).await?.is_empty() {
        return Err(Problem::not_found());
    }
    let found = tx.organization_members(id, page.after, page.limit + 1).await?;
    Ok(Json(page.of(found)))
}

/// Who is in a project
///
/// Those with a role of the project itself. Admins and owners of its organization manage it, too. In pages, which stay
/// stable while people come and go: follow `next_cursor` until it is null.
#[utoipa::path(
    get, path = "/v1/projects/{id}/members", tag = tag::ORGANIZATIONS, operation_id = "listProjectMembers",
    params(
        ("id" = Uuid, Path, description = "The project's id", example = example::project_id),
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
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<Json<Members>, Problem> {
    let mut tx = api.app.store.read().await?;
    let project = tx.projects(&[id]).await?.into_iter().next();
    client.must_use(project.ok_or_else(Problem::not_found)?.organization_id)?;
    let page = MemberPage::asked(query.as_deref())?;
    let found = tx.project_members(id, page.after, page.limit + 1).await?;
    Ok(Json(page.of(found)))
}

/// Which page of members is asked for.
struct MemberPage {
    after: Option<Uuid>,
    limit: u32,
}

impl MemberPage {
    fn asked(query: Option<&str>) -> Result<Self, Problem> {
        let mut fields = Fields::of_query(query)?;
        let limit = fields.optional("limit", page_limit(MAX_PAGE));
        let after = fields.optional("cursor", read_cursor);
        let limit = fields.finish(Some(limit))?.unwrap_or(PAGE);
        Ok(Self { after, limit })
    }

    /// The page, out of the members that were found: one more than asked for tells that there is a next one.
    fn of(&self, mut found: Vec<Member>) -> Members {
        let has_more = found.len() > self.limit as usize;
        found.truncate(self.limit as usize);
        let last = found.last().filter(|_| has_more);
        Members {
            next_cursor: last.map(|member| URL_SAFE_NO_PAD.encode(member.admin_id)),
            items: found.into_iter().map(MemberJson::from).collect(),
        }
    }
}

fn read_cursor(value: Value) -> Result<Uuid, String> {
    value
        .as_str()
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .and_then(|bytes| Uuid::from_slice(&bytes).ok())
        .ok_or_else(|| "must be the next_cursor of an earlier answer".to_owned())
}
