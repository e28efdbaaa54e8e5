//! The invitee: what waits for them, and their answer.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Api;
use super::auth::SignedIn;
use super::body::Id;
use super::invites::invite_json;
use super::view::InviteJson;
use crate::flows::admit;
use crate::invites::Status;
use crate::invites::matching::Person;
use crate::problem::Problem;
use crate::store::{StoreError, Tx};

/// `GET /v1/me/invites`: what the banner shows. Changes nothing.
pub(super) async fn list(State(api): State<Api>, me: SignedIn) -> Result<Json<Value>, Problem> {
    let mut tx = api.app.store.read().await?;
    let Some(person) = person(&mut tx, &me).await? else {
        return Ok(Json(json!({ "items": [], "synced": false })));
    };
    if person.blocked {
        return Ok(Json(json!({ "items": [], "synced": true })));
    }
    let waiting = tx.waiting_for(&[person.admin_id]).await?;
    let shown: Vec<Uuid> = waiting
        .iter()
        .filter(|waiting| !waiting.is_dismissed())
        .map(|waiting| waiting.invite.id)
        .collect();
    let now = tx.now();
    let items: Vec<InviteJson> = tx
        .invite_views(&shown)
        .await?
        .into_iter()
        .map(|view| InviteJson::at(view, now))
        .collect();
    Ok(Json(json!({ "items": items, "synced": true })))
}

/// `POST /v1/me/invites/{id}/accept`
pub(super) async fn accept(State(api): State<Api>, me: SignedIn, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    me.decides()?;
    let mut tx = api.app.store.begin().await?;
    let person = present(&mut tx, &me).await?;
    let waiting = tx.waiting_for(&[person.admin_id]).await?;
    let Some(waiting) = waiting.iter().find(|waiting| waiting.invite.id == id) else {
        return Err(not_open(&mut tx, id, person.admin_id).await?);
    };
    if admit(&mut tx, &[waiting], &api.app.config.roles).await?.is_empty() {
        return Err(not_open(&mut tx, id, person.admin_id).await?);
    }
    answered(tx, id).await
}

/// `POST /v1/me/invites/{id}/decline`
pub(super) async fn decline(State(api): State<Api>, me: SignedIn, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    me.decides()?;
    let mut tx = api.app.store.begin().await?;
    let person = present(&mut tx, &me).await?;
    let theirs = tx.invite_of(id, person.admin_id).await?.is_some();
    if !theirs || !tx.decline_invite(id).await? {
        return Err(not_open(&mut tx, id, person.admin_id).await?);
    }
    answered(tx, id).await
}

/// `POST /v1/me/invites/{id}/dismiss`
pub(super) async fn dismiss(State(api): State<Api>, me: SignedIn, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    me.decides()?;
    let mut tx = api.app.store.begin().await?;
    let person = present(&mut tx, &me).await?;
    let theirs = tx.invite_of(id, person.admin_id).await?.is_some();
    if !theirs || !tx.dismiss_invite(id, person.admin_id).await? {
        return Err(not_open(&mut tx, id, person.admin_id).await?);
    }
    answered(tx, id).await
}

async fn answered(mut tx: Tx, id: Uuid) -> Result<Json<InviteJson>, Problem> {
    let json = invite_json(&mut tx, id).await?.ok_or_else(Problem::not_found)?;
    tx.commit().await?;
    Ok(Json(json))
}

async fn person(tx: &mut Tx, me: &SignedIn) -> Result<Option<Person>, StoreError> {
    let people = tx.people_by_clerk_id(&[&me.clerk_user_id]).await?;
    Ok(people.first().and_then(crate::store::Person::for_matching))
}

/// Whoever usher does not know, or who is banned, locked or deleted, has no invites.
async fn present(tx: &mut Tx, me: &SignedIn) -> Result<Person, Problem> {
    person(tx, me)
        .await?
        .filter(|person| !person.blocked)
        .ok_or_else(Problem::not_found)
}

/// Why an invite can't be answered: unknown and another's look alike.
async fn not_open(tx: &mut Tx, id: Uuid, admin_id: Uuid) -> Result<Problem, StoreError> {
    let now = tx.now();
    let Some(invite) = tx.invite_of(id, admin_id).await? else {
        return Ok(Problem::not_found());
    };
    let conflict = |code, title| Problem::new(StatusCode::CONFLICT, code, title);
    Ok(match invite.status_at(now) {
        Status::Accepted => conflict("invite_accepted", "The invite was accepted already."),
        Status::Declined => conflict("invite_declined", "The invite was declined. Ask for a new one."),
        Status::Revoked => conflict("invite_revoked", "The invite was taken back. Ask for a new one."),
        Status::Expired => conflict("invite_expired", "The invite has expired. Ask for a new one."),
        // Open, but what it leads into is gone.
        Status::Pending => Problem::not_found(),
    })
}
