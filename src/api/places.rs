//! Organizations and projects, for apps that don't share the database, and who is in them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Api;
use super::auth::AppClient;
use super::body::{Fields, Id, line, uuid};
use super::view::{Rfc3339, full_name};
use crate::problem::{FieldError, Problem};
use crate::store::Member;

/// Characters.
const MAX_NAME: usize = 200;

#[derive(Serialize)]
pub(super) struct MemberJson {
    admin_id: Uuid,
    clerk_user_id: Option<String>,
    email: Option<String>,
    name: Option<String>,
    role: String,
    since: Rfc3339,
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

/// `PUT /v1/organizations/{id}`
pub(super) async fn put_organization(
    State(api): State<Api>,
    client: AppClient,
    Id(id): Id,
    mut fields: Fields,
) -> Result<(StatusCode, Json<Value>), Problem> {
    client.must_use(id)?;
    let name = fields.required("name", line(MAX_NAME));
    let name = fields.finish(name)?;
    let mut tx = api.app.store.begin().await?;
    let is_new = tx.organizations(&[id]).await?.is_empty();
    let place = tx.put_organization(id, &name).await?;
    tx.commit().await?;
    let body = json!({
        "id": place.id, "name": place.name,
        "created_at": Rfc3339(place.created_at), "updated_at": Rfc3339(place.updated_at),
    });
    Ok((created_or_ok(is_new), Json(body)))
}

/// `PUT /v1/projects/{id}`
pub(super) async fn put_project(
    State(api): State<Api>,
    client: AppClient,
    Id(id): Id,
    mut fields: Fields,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let organization_id = fields.required("organization_id", uuid);
    let name = fields.required("name", line(MAX_NAME));
    let (organization_id, name) = fields.finish(organization_id.zip(name))?;
    let mut tx = api.app.store.begin().await?;
    let is_new = tx.projects(&[id]).await?.is_empty();
    if let Some(home_id) = tx.project_home(id).await? {
        client.must_use(home_id)?;
    }
    let place = if client.may_use(organization_id) {
        tx.put_project(id, organization_id, &name).await?
    } else {
        None
    };
    tx.commit().await?;
    let place = place.ok_or_else(|| {
        Problem::invalid(vec![FieldError::new(
            "organization_id",
            "there is no such organization; PUT it first",
        )])
    })?;
    let body = json!({
        "id": place.id, "organization_id": place.organization_id, "name": place.name,
        "created_at": Rfc3339(place.created_at), "updated_at": Rfc3339(place.updated_at),
    });
    Ok((created_or_ok(is_new), Json(body)))
}

fn created_or_ok(is_new: bool) -> StatusCode {
    if is_new { StatusCode::CREATED } else { StatusCode::OK }
}

/// `GET /v1/organizations/{id}/members`
pub(super) async fn organization_members(
    State(api): State<Api>,
    client: AppClient,
    Id(id): Id,
) -> Result<Json<Value>, Problem> {
    client.must_use(id)?;
    let mut tx = api.app.store.read().await?;
    if tx.organizations(&[id]).await?.is_empty() {
        return Err(Problem::not_found());
    }
    Ok(members(tx.organization_members(id).await?))
}

/// `GET /v1/projects/{id}/members`
pub(super) async fn project_members(
    State(api): State<Api>,
    client: AppClient,
    Id(id): Id,
) -> Result<Json<Value>, Problem> {
    let mut tx = api.app.store.read().await?;
    let project = tx.projects(&[id]).await?.into_iter().next();
    client.must_use(project.ok_or_else(Problem::not_found)?.organization_id)?;
    Ok(members(tx.project_members(id).await?))
}

fn members(members: Vec<Member>) -> Json<Value> {
    let items: Vec<MemberJson> = members.into_iter().map(MemberJson::from).collect();
    Json(json!({ "items": items }))
}
