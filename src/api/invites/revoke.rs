//! Revoking an invite.

use axum::Json;
use axum::extract::State;
use futures::FutureExt as _;
use uuid::Uuid;

use super::{not_open, visible_to};
use crate::api::auth::AppClient;
use crate::api::body::Id;
use crate::api::{Api, example, tag};
use crate::problem::{Code, Problem};
use crate::store::Tx;
use crate::view::InviteJson;

/// Revoke an invite
///
/// Its link is void, and a mail that is still queued is not sent.
#[utoipa::path(
    post, path = "/v1/invites/{id}/revoke", tag = tag::INVITES, operation_id = "revokeInvite",
    params(("id" = Uuid, Path, description = "The invite's id", example = example::invite_id)),
    responses((status = 200, description = "The invite is revoked", body = InviteJson, example = example::revoked_invite)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([
        Code::NotFound, Code::InviteAccepted, Code::InviteDeclined, Code::InviteRevoked
    ])))
)]
pub(super) async fn revoke(State(api): State<Api>, client: AppClient, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    let store = client.store(&api, 1);
    let json = store
        .transaction((&api, &client), |tx, (api, client)| {
            revoke_in(tx, api, client, id).boxed()
        })
        .await?;
    Ok(Json(json))
}

async fn revoke_in(tx: &mut Tx, api: &Api, client: &AppClient, id: Uuid) -> Result<InviteJson, Problem> {
    if !tx.revoke_invite(id).await? {
        visible_to(api, client, tx, id).await?;
        return Err(not_open(tx, id).await?);
    }
    visible_to(api, client, tx, id).await
}
