//! What a person is a member of: for the app, and for themselves, who may leave.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{AppClient, SignedIn};
use super::body::{Segment, TargetPath};
use super::members::end;
use super::{Api, example, tag};
use crate::app_id::AppId;
use crate::flows::Removal;
use crate::invites::{PersonRef, Target, is_clerk_user_id};
use crate::problem::{Code, Problem};
use crate::store::{MembershipView, StoreError};
use crate::view::{Named, Rfc3339};

/// Called by the app, with its API key.
pub(super) fn for_the_app() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(memberships_of))
}

/// Called by the app's pages, from the browser.
pub(super) fn for_pages() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(my_memberships))
        .routes(routes!(leave_organization))
        .routes(routes!(leave_project))
}

/// What a person is a member of.
#[derive(Serialize, ToSchema)]
pub(super) struct Memberships {
    /// Organizations and projects, 1,000 at most. Roles in an organization that also count in its projects are not
    /// repeated.
    items: Vec<MembershipJson>,
}

/// One membership.
#[derive(Serialize, ToSchema)]
#[schema(as = Membership)]
struct MembershipJson {
    /// The organization, or the project's.
    organization: Named,
    /// The project, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    project: Option<Named>,
    /// The role.
    role: String,
    /// Since when.
    since: Rfc3339,
}

impl From<MembershipView> for MembershipJson {
    fn from(view: MembershipView) -> Self {
        let project = view.project_id.map(|key| Named {
            id: AppId::shown(key, view.project_spelling),
            name: view.project_name.unwrap_or_default(),
        });
        Self {
            organization: Named {
                id: AppId::shown(view.organization_id, view.organization_spelling),
                name: view.organization_name,
            },
            project,
            role: view.role,
            since: Rfc3339(view.since),
        }
    }
}

/// List a person's memberships
///
/// For a key that is limited to organizations, only those in them.
#[utoipa::path(
    get, path = "/v1/users/{clerk_user_id}/memberships", tag = tag::MEMBERS, operation_id = "listUserMemberships",
    params(("clerk_user_id" = String, Path, description = "Clerk's id of the person",
        pattern = "^user_[A-Za-z0-9_]{1,59}$", example = example::clerk_user_id)),
    responses((status = 200, description = "What they are a member of", body = Memberships, example = example::memberships)),
    security(("api_key" = [])),
)]
pub(super) async fn memberships_of(
    State(api): State<Api>,
    client: AppClient,
    Segment(clerk_user_id): Segment,
) -> Result<Json<Memberships>, Problem> {
    if !is_clerk_user_id(&clerk_user_id) {
        return Err(Code::InvalidId.into());
    }
    let mut all = memberships(&api, clerk_user_id).await?;
    all.retain(|membership| client.may_use(membership.organization_id));
    let items = all.into_iter().map(MembershipJson::from).collect();
    Ok(Json(Memberships { items }))
}

/// List the signed-in person's memberships
///
/// Organizations and projects, with the role in each.
#[utoipa::path(
    get, path = "/v1/me/memberships", tag = tag::ME, operation_id = "listMyMemberships",
    responses((status = 200, description = "What they are a member of", body = Memberships, example = example::memberships)),
    security(("session" = []), ("session_cookie" = [])),
)]
pub(super) async fn my_memberships(State(api): State<Api>, me: SignedIn) -> Result<Json<Memberships>, Problem> {
    let all = memberships(&api, me.clerk_user_id).await?;
    let items = all.into_iter().map(MembershipJson::from).collect();
    Ok(Json(Memberships { items }))
}

async fn memberships(api: &Api, clerk_user_id: String) -> Result<Vec<MembershipView>, StoreError> {
    let person = PersonRef::Clerk(clerk_user_id);
    let mut tx = api.app.store.read().await?;
    match tx.live_people(std::slice::from_ref(&person)).await?.get(&person) {
        Some(&admin_id) => tx.memberships_of(admin_id).await,
        None => Ok(Vec::new()),
    }
}

/// Leave an organization
///
/// Leaves its projects, too. The last holder of the highest role can't leave.
#[utoipa::path(
    delete, path = "/v1/me/memberships/organizations/{id}", tag = tag::ME, operation_id = "leaveOrganization",
    params(("id" = AppId, Path, description = "The organization's id", example = example::organization_id)),
    responses((status = 204, description = "They are no member")),
    security(("session" = []), ("session_cookie" = [])),
    extensions(("x-problems" = json!([Code::NotFound, Code::LastOwner])))
)]
pub(super) async fn leave_organization(
    State(api): State<Api>,
    me: SignedIn,
    TargetPath(id): TargetPath,
) -> Result<StatusCode, Problem> {
    leave(&api, Target::Organization(id.key()), &me).await
}

/// Leave a project
///
/// Those who manage its organization still manage it.
#[utoipa::path(
    delete, path = "/v1/me/memberships/projects/{id}", tag = tag::ME, operation_id = "leaveProject",
    params(("id" = AppId, Path, description = "The project's id", example = example::project_id)),
    responses((status = 204, description = "They are no member")),
    security(("session" = []), ("session_cookie" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
)]
pub(super) async fn leave_project(
    State(api): State<Api>,
    me: SignedIn,
    TargetPath(id): TargetPath,
) -> Result<StatusCode, Problem> {
    leave(&api, Target::Project(id.key()), &me).await
}

async fn leave(api: &Api, target: Target, me: &SignedIn) -> Result<StatusCode, Problem> {
    me.decides()?;
    let removal = Removal {
        target,
        clerk_user_id: &me.clerk_user_id,
        organizations: None,
        force: false,
        roles: &api.app.config.roles,
    };
    end(&api.app.store, removal).await
}
