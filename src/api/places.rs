//! Organizations and projects, for apps that don't share the database, and who is in them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures::FutureExt as _;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::auth::AppClient;
use super::body::{Fields, Id, line, uuid};
use super::view::{Rfc3339, full_name};
use super::{example, tag};
use crate::problem::{Code, FieldError, Problem};
use crate::store::{Member, Place, Tx};

/// Characters.
const MAX_NAME: usize = 200;

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

/// Who is in.
#[derive(Serialize, ToSchema)]
pub(super) struct Members {
    /// Everybody who is in, without those who were removed.
    items: Vec<MemberJson>,
}

/// What an organization shall be called.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the schema of what `put_organization` reads field by field")]
pub(super) struct PutOrganization {
    /// One line.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\u2028\u2029\s][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
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
    /// One line.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\u2028\u2029\s][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
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
/// For apps that don't share the database. The id is yours to choose.
#[utoipa::path(
    put, path = "/v1/organizations/{id}", tag = tag::PLACES, operation_id = "putOrganization",
    params(("id" = Uuid, Path, description = "The organization's id", example = example::organization_id)),
    request_body(content = PutOrganization, example = example::put_organization),
    responses(
        (status = 201, description = "It was made", body = OrganizationJson, example = example::organization),
        (status = 200, description = "It was there, and is called so now", body = OrganizationJson, example = example::organization),
    ),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
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
    let (is_new, place) = store
        .transaction(name, |tx, name| put_organization_in(tx, id, name).boxed())
        .await?;
    let body = OrganizationJson {
        id: place.id,
        name: place.name,
        created_at: Rfc3339(place.created_at),
        updated_at: Rfc3339(place.updated_at),
    };
    Ok((created_or_ok(is_new), Json(body)))
}

async fn put_organization_in(tx: &mut Tx, id: Uuid, name: &str) -> Result<(bool, Place), Problem> {
    let is_new = tx.organizations(&[id]).await?.is_empty();
    Ok((is_new, tx.put_organization(id, name).await?))
}

/// Make, rename or move a project
///
/// For apps that don't share the database. The id is yours to choose; its organization must be there.
#[utoipa::path(
    put, path = "/v1/projects/{id}", tag = tag::PLACES, operation_id = "putProject",
    params(("id" = Uuid, Path, description = "The project's id", example = example::project_id)),
    request_body(content = PutProject, example = example::put_project),
    responses(
        (status = 201, description = "It was made", body = ProjectJson, example = example::project),
        (status = 200, description = "It was there, and is as asked now", body = ProjectJson, example = example::project),
    ),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
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
    let (is_new, place) = store
        .transaction((&client, &name), |tx, (client, name)| {
            put_project_in(tx, client, id, organization_id, name).boxed()
        })
        .await?;
    let place = place.ok_or_else(|| {
        Problem::invalid(vec![FieldError::new(
            "organization_id",
            "there is no such organization; PUT it first",
        )])
    })?;
    let body = ProjectJson {
        id: place.id,
        organization_id: place.organization_id,
        name: place.name,
        created_at: Rfc3339(place.created_at),
        updated_at: Rfc3339(place.updated_at),
    };
    Ok((created_or_ok(is_new), Json(body)))
}

async fn put_project_in(
    tx: &mut Tx,
    client: &AppClient,
    id: Uuid,
    organization_id: Uuid,
    name: &str,
) -> Result<(bool, Option<Place>), Problem> {
    let is_new = tx.projects(&[id]).await?.is_empty();
    if let Some(home_id) = tx.project_home(id).await? {
        client.must_use(home_id)?;
    }
    let place = if client.may_use(organization_id) {
        tx.put_project(id, organization_id, name).await?
    } else {
        None
    };
    Ok((is_new, place))
}

fn created_or_ok(is_new: bool) -> StatusCode {
    if is_new { StatusCode::CREATED } else { StatusCode::OK }
}

/// Who is in an organization
#[utoipa::path(
    get, path = "/v1/organizations/{id}/members", tag = tag::PLACES, operation_id = "listOrganizationMembers",
    params(("id" = Uuid, Path, description = "The organization's id", example = example::organization_id)),
    responses((status = 200, description = "Its members", body = Members, example = example::members)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
)]
pub(super) async fn organization_members(
    State(api): State<Api>,
    client: AppClient,
    Id(id): Id,
) -> Result<Json<Members>, Problem> {
    client.must_use(id)?;
    let mut tx = api.app.store.read().await?;
    if tx.organizations(&[id]).await?.is_empty() {
        return Err(Problem::not_found());
    }
    Ok(members(tx.organization_members(id).await?))
}

/// Who is in a project
///
/// Those with a role of the project itself. Admins and owners of its organization manage it, too.
#[utoipa::path(
    get, path = "/v1/projects/{id}/members", tag = tag::PLACES, operation_id = "listProjectMembers",
    params(("id" = Uuid, Path, description = "The project's id", example = example::project_id)),
    responses((status = 200, description = "Its members", body = Members, example = example::members)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
)]
pub(super) async fn project_members(
    State(api): State<Api>,
    client: AppClient,
    Id(id): Id,
) -> Result<Json<Members>, Problem> {
    let mut tx = api.app.store.read().await?;
    let project = tx.projects(&[id]).await?.into_iter().next();
    client.must_use(project.ok_or_else(Problem::not_found)?.organization_id)?;
    Ok(members(tx.project_members(id).await?))
}

fn members(members: Vec<Member>) -> Json<Members> {
    let items = members.into_iter().map(MemberJson::from).collect();
    Json(Members { items })
}
