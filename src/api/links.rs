//! What a landing page shows of a link, to whoever holds it. Looking changes nothing.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Api;
use super::view::{Rfc3339, full_name};
use crate::invites::email::mask;
use crate::problem::Problem;

/// `GET /v1/invite-links/{token}`: forged, void and unknown look alike.
pub(super) async fn preview(State(api): State<Api>, Path(token): Path<String>) -> Result<Json<Value>, Problem> {
    let claim = api.app.token_key.verify(&token).ok_or_else(Problem::not_found)?;
    let mut tx = api.app.store.read().await?;
    let now = tx.now();
    let view = tx.invite_views(&[claim.invite_id]).await?.into_iter().next();
    let view = view
        .filter(|view| view.invite.token_version == claim.version)
        .ok_or_else(Problem::not_found)?;
    let inviter = full_name(view.inviter_first_name.as_deref(), view.inviter_last_name.as_deref());
    Ok(Json(json!({
        "kind": view.invite.kind,
        "organization": { "name": view.organization_name },
        "project": view.project_name.map(|name| json!({ "name": name })),
        "role": view.invite.role,
        "invited_by": inviter.map(|name| json!({ "name": name })),
        "email": mask(&view.invite.email),
        "status": view.invite.status_at(now),
        "expires_at": Rfc3339(view.invite.expires_at),
    })))
}
