//! Organizations and projects, for apps that don't share the database.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures::FutureExt as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::AppClient;
use super::body::TargetPath;
use super::{example, tag};
use crate::app_id::AppId;
use crate::fields::{FieldError, Fields, body, line};
use crate::invites::Target;
use crate::problem::{Code, Problem};
use crate::store::{Put, PutRefusal, Tables, TargetInfo};
use crate::view::Rfc3339;

/// Characters.
const MAX_NAME: usize = 200;

/// An organization that was made or renamed.
#[derive(Serialize, ToSchema)]
#[schema(as = Organization)]
pub(super) struct OrganizationJson {
    /// Its id.
    id: String,
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
    id: String,
    /// The organization that it belongs to.
    organization_id: String,
    /// Its name.
    name: String,
    /// When it was made.
    created_at: Rfc3339,
    /// When it last changed.
    updated_at: Rfc3339,
}

body! {
    /// What an organization shall be called.
    pub(super) struct PutOrganization {
        /// One line, of which something can be seen. usher answers it as it is: whoever shows it escapes it.
        #[schema(
            min_length = 1,
            max_length = 200,
            pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
        )]
        name: String = required(line(MAX_NAME)),
    }
}

body! {
    /// What a project shall be called, and where it belongs.
    pub(super) struct PutProject {
        /// The organization that it belongs to; another one moves it.
        organization_id: AppId = required(AppId::read),
        /// One line, of which something can be seen. usher answers it as it is: whoever shows it escapes it.
        #[schema(
            min_length = 1,
            max_length = 200,
            pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
        )]
        name: String = required(line(MAX_NAME)),
    }
}

/// Make or rename an organization
///
/// For apps that don't share the database. The id is yours to choose. What was deleted stays deleted.
#[utoipa::path(
    put, path = "/v1/organizations/{id}", tag = tag::ORGANIZATIONS, operation_id = "putOrganization",
    params(("id" = AppId, Path, description = "The organization's id", example = example::organization_id)),
    request_body(content = PutOrganization, example = example::put_organization),
    responses(
        (status = 201, description = "Created", body = OrganizationJson, example = example::organization),
        (status = 200, description = "It existed; its name is updated", body = OrganizationJson, example = example::organization),
    ),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound, Code::OrganizationDeleted, Code::AppMustCreate, Code::AppRefused])))
)]
pub(super) async fn put_organization(
    State(api): State<Api>,
    client: AppClient,
    TargetPath(id): TargetPath,
    mut fields: Fields,
) -> Result<(StatusCode, Json<OrganizationJson>), Problem> {
    client.must_use(id.key())?;
    must_be_spelt(&api, &id)?;
    let body = PutOrganization::read(&mut fields);
    let name = fields.finish(body).map_err(Problem::invalid)?.name;
    let store = client.store(&api, 1);
    let put = store
        .transaction((id, name), |tx, (id, name)| tx.put_organization(id, name).boxed())
        .await?;
    let (status, target) = answered(put)?;
    let body = OrganizationJson {
        id: target.shown(),
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
    params(("id" = AppId, Path, description = "The project's id", example = example::project_id)),
    request_body(content = PutProject, example = example::put_project),
    responses(
        (status = 201, description = "Created", body = ProjectJson, example = example::project),
        (status = 200, description = "It existed and is updated", body = ProjectJson, example = example::project),
    ),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([
        Code::NotFound, Code::OrganizationDeleted, Code::ProjectDeleted, Code::AppMustCreate, Code::AppRefused
    ])))
)]
pub(super) async fn put_project(
    State(api): State<Api>,
    client: AppClient,
    TargetPath(id): TargetPath,
    mut fields: Fields,
) -> Result<(StatusCode, Json<ProjectJson>), Problem> {
    let body = PutProject::read(&mut fields);
    must_be_spelt(&api, &id)?;
    let PutProject { organization_id, name } = fields.finish(body).map_err(Problem::invalid)?;
    let organization_id = organization_id.key();
    let store = client.store(&api, 1);
    let put = store
        .transaction((&client, &id, &name), |tx, (client, id, name)| {
            tx.put_project(id, organization_id, name, client.organizations())
                .boxed()
        })
        .await?;
    let (status, target) = answered(put)?;
    let body = ProjectJson {
        id: target.shown(),
        organization_id: target.organization_shown(),
        name: target.name,
        created_at: Rfc3339(target.created_at),
        updated_at: Rfc3339(target.updated_at),
    };
    Ok((status, Json(body)))
}

/// An app's own tables have UUIDs.
fn must_be_spelt(api: &Api, id: &AppId) -> Result<(), Problem> {
    if api.app.config.layout.tables == Tables::Shared && id.spelling().is_some() {
        return Err(Problem::new(Code::InvalidId).with_detail("With USHER_TABLES=shared, ids are UUIDs."));
    }
    Ok(())
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
        Put::Refused(PutRefusal::App(refusal)) => Err(refusal.into()),
    }
}

/// Delete an organization
///
/// Its memberships end, its open invites and those into its projects are revoked, and its projects are deleted with it.
/// Deleting it again changes nothing.
#[utoipa::path(
    delete, path = "/v1/organizations/{id}", tag = tag::ORGANIZATIONS, operation_id = "deleteOrganization",
    params(("id" = AppId, Path, description = "The organization's id", example = example::organization_id)),
    responses((status = 204, description = "It is deleted")),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
)]
pub(super) async fn delete_organization(
    State(api): State<Api>,
    client: AppClient,
    TargetPath(id): TargetPath,
) -> Result<StatusCode, Problem> {
    client.must_use(id.key())?;
    delete(&api, &client, Target::Organization(id.key())).await
}

/// Delete a project
///
/// Its memberships end, and its open invites are revoked. Deleting it again changes nothing.
#[utoipa::path(
    delete, path = "/v1/projects/{id}", tag = tag::ORGANIZATIONS, operation_id = "deleteProject",
    params(("id" = AppId, Path, description = "The project's id", example = example::project_id)),
    responses((status = 204, description = "It is deleted")),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
)]
pub(super) async fn delete_project(
    State(api): State<Api>,
    client: AppClient,
    TargetPath(id): TargetPath,
) -> Result<StatusCode, Problem> {
    delete(&api, &client, Target::Project(id.key())).await
}

async fn delete(api: &Api, client: &AppClient, target: Target) -> Result<StatusCode, Problem> {
    let store = client.store(api, 1);
    let within = client.organizations();
    let is_known = store
        .transaction((target, within), |tx, (target, within)| {
            tx.end_target(*target, *within).boxed()
        })
        .await?;
    if is_known {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found())
    }
}
