//! Invites, for the app: create, list, show, resend, revoke.

mod create;
mod list;
mod request;
mod resend;
mod revoke;

use std::collections::HashMap;

use axum::extract::State;
use axum::{Extension, Json};
use chrono::{DateTime, TimeDelta, Utc};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;
use uuid::Uuid;

pub(super) use request::MAX_INVITE;

use super::auth::AppClient;
use super::body::{Id, MaxBody};
use super::{Api, example, tag};
use crate::flows::caps_reset_at;
use crate::problem::{Code, Problem};
use crate::store::{StoreError, Tx};
use crate::view::InviteJson;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list::list, create::create))
        .routes(routes!(create::batch).layer(Extension(MaxBody(create::MAX_BATCH_BODY))))
        .routes(routes!(show))
        .routes(routes!(resend::resend))
        .routes(routes!(revoke::revoke))
}

/// Show an invite with its delivery
///
/// `delivery` is what became of its last mail.
#[utoipa::path(
    get, path = "/v1/invites/{id}", tag = tag::INVITES, operation_id = "getInvite",
    params(("id" = Uuid, Path, description = "The invite's id", example = example::invite_id)),
    responses((status = 200, description = "The invite", body = InviteJson, example = example::invite)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::NotFound])))
)]
pub(super) async fn show(State(api): State<Api>, client: AppClient, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    let mut tx = api.app.store.read().await?;
    Ok(Json(visible_to(&api, &client, &mut tx, id).await?))
}

/// One invite as JSON, as the transaction sees it.
pub(super) async fn invite_json(api: &Api, tx: &mut Tx, id: Uuid) -> Result<Option<InviteJson>, StoreError> {
    Ok(views_by_id(api, tx, &[id]).await?.remove(&id))
}

/// The invites as JSON, by their ids.
async fn views_by_id(api: &Api, tx: &mut Tx, ids: &[Uuid]) -> Result<HashMap<Uuid, InviteJson>, StoreError> {
    let (now, redirects) = (tx.now(), &api.app.config.redirects);
    let views = tx.invite_views(ids).await?;
    let by_id = views
        .into_iter()
        .map(|view| (view.invite.id, InviteJson::at(view, redirects, now)));
    Ok(by_id.collect())
}

/// The invite, or 404 if the key may not see it.
async fn visible_to(api: &Api, client: &AppClient, tx: &mut Tx, id: Uuid) -> Result<InviteJson, Problem> {
    let json = invite_json(api, tx, id).await?.ok_or_else(Problem::not_found)?;
    client.must_use(json.organization_id())?;
    Ok(json)
}

async fn not_open(tx: &mut Tx, id: Uuid) -> Result<Problem, Problem> {
    let now = tx.now();
    let invite = tx.invite(id).await?.ok_or_else(Problem::not_found)?;
    Ok(super::me::closed(invite.status_at(now)))
}

fn too_many_mails(now: DateTime<Utc>) -> Problem {
    Problem::new(Code::DailyMailCap).retry_after(seconds_until(caps_reset_at(now), now))
}

/// For `Retry-After`. Rounded up, so that a client which waits that long is not told to wait again.
fn seconds_until(time: DateTime<Utc>, now: DateTime<Utc>) -> u32 {
    u32::try_from((time - now + TimeDelta::milliseconds(999)).num_seconds())
        .unwrap_or(u32::MAX)
        .max(1)
}
