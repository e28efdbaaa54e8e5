//! The invitee's answers: accept, also by link, decline, dismiss.

use axum::Json;
use axum::extract::State;
use uuid::Uuid;

use super::Api;
use super::auth::SignedIn;
use super::banner::{ask_clerk, is_fresh};
use super::body::Id;
use super::invites::invite_json;
use super::{example, tag};
use crate::fields::{Fields, body, text};
use crate::flows::{Accepted, accept_candidates};
use crate::invites::accept::Obstacle;
use crate::invites::matching;
use crate::invites::token::LinkClaim;
use crate::invites::{Invite, Status};
use crate::problem::{Code, Problem};
use crate::store::{Person, Store, StoreError, Tx};
use crate::view::InviteJson;
use usher_base::mask::mask;

/// Accept an invite
///
/// The membership, the role and the notice to the inviter are stored together, or not at all. Who has accepted the invite
/// already gets it again.
#[utoipa::path(
    post, path = "/v1/me/invites/{id}/accept", tag = tag::ME, operation_id = "acceptInvite",
    params(("id" = Uuid, Path, description = "The invite's id", example = example::invite_id)),
    responses((status = 200, description = "The invite as it is now", body = InviteJson, example = example::accepted_invite)),
    security(("session" = []), ("session_cookie" = [])),
    extensions(("x-problems" = json!([
        Code::NotFound, Code::NotSynced, Code::InviteAccepted, Code::InviteDeclined, Code::InviteRevoked,
        Code::InviteExpired, Code::InviterLostRights, Code::UnknownRole, Code::AppRefused
    ])))
)]
pub(super) async fn accept(State(api): State<Api>, me: SignedIn, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    api.app
        .store
        .again_on_conflict(|store| accept_one(&api, store, &me, id))
        .await
}

async fn accept_one(api: &Api, store: Store, me: &SignedIn, id: Uuid) -> Result<Json<InviteJson>, Problem> {
    let (invitee, invite) = authenticate_for(api, &store, me, id).await?;
    let invite = invite.ok_or_else(Problem::not_found)?;
    accept_invite(api, me, invitee, &invite).await
}

body! {
    /// The token of an invite link.
    pub(super) struct AcceptByToken {
        /// The token from the mail's link.
        token: String = required(text),
    }
}

/// Accept by link
///
/// A link works only for the invited address: the signed-in person must have it, verified. Who has accepted the invite
/// already gets it again. A person who has just signed up may get 409 `not_synced`, until Clerk has told of them.
#[utoipa::path(
    post, path = "/v1/me/invites/accept", tag = tag::ME, operation_id = "acceptInviteByLink",
    request_body(content = AcceptByToken, example = example::accept_by_token),
    responses((status = 200, description = "The invite as it is now", body = InviteJson, example = example::accepted_invite)),
    security(("session" = []), ("session_cookie" = [])),
    extensions(("x-problems" = json!([
        Code::NotFound, Code::NotSynced, Code::OtherAddress, Code::InviterLostRights, Code::UnknownRole,
        Code::LinkExpired, Code::InviteAccepted, Code::InviteDeclined, Code::InviteRevoked, Code::AppRefused
    ])))
)]
pub(super) async fn accept_by_token(
    State(api): State<Api>,
    me: SignedIn,
    mut fields: Fields,
) -> Result<Json<InviteJson>, Problem> {
    let body = AcceptByToken::read(&mut fields);
    let token = fields.finish(body).map_err(Problem::invalid)?.token;
    let claim = api.app.token_key.verify(&token).ok_or_else(Problem::not_found)?;
    let store = &api.app.store;
    store
        .again_on_conflict(|store| accept_claim(&api, store, &me, &claim))
        .await
}

async fn accept_claim(api: &Api, store: Store, me: &SignedIn, claim: &LinkClaim) -> Result<Json<InviteJson>, Problem> {
    let (mut invitee, theirs) = authenticate_for(api, &store, me, claim.invite_id).await?;
    let invite = invitee
        .tx
        .invite(claim.invite_id)
        .await?
        .filter(|invite| invite.token_version == claim.version);
    let invite = invite.ok_or_else(Problem::not_found)?;
    if theirs.is_none() && !is_accepted_by(&invite, &me.clerk_user_id) {
        let facts = invitee.tx.accept_facts(&[invite.id]).await?;
        // Without what it leads into, a link is as void as one that is forged.
        let leads_somewhere = facts.get(&invite.id).is_some_and(|facts| facts.target_exists);
        return Err(if leads_somewhere {
            other_address(&invite)
        } else {
            Problem::not_found()
        });
    }
    if invite.status_at(invitee.tx.now()) == Status::Expired {
        return Err(Code::LinkExpired.into());
    }
    accept_invite(api, me, invitee, &invite).await
}

fn other_address(invite: &Invite) -> Problem {
    let masked = mask(&invite.email);
    Problem::new(Code::OtherAddress).with_detail(format!(
        "Sign in with {masked}, verified, or add and verify it in your account."
    ))
}

async fn accept_invite(
    api: &Api,
    me: &SignedIn,
    invitee: Invitee,
    invite: &Invite,
) -> Result<Json<InviteJson>, Problem> {
    let Invitee { mut tx, person } = invitee;
    let waiting = tx.invite_candidates(&[person]).await?;
    let Some(waiting) = waiting.iter().find(|waiting| waiting.invite.id == invite.id) else {
        return accepted_before(api, tx, invite.id, me).await;
    };
    let Accepted { people, refused } = accept_candidates(&mut tx, &[waiting], &api.app.config.roles).await?;
    if let Some(refused) = refused.first() {
        // Commit, because the refusal is recorded.
        tx.commit().await?;
        return Err(match refused.obstacle {
            // To the invitee it looks as if it did not exist.
            Obstacle::TargetDeleted => Problem::not_found(),
            obstacle => refused_by(obstacle),
        });
    }
    if people.is_empty() {
        return accepted_before(api, tx, invite.id, me).await;
    }
    answered(api, tx, invite.id).await
}

/// The answer for an invite that is no longer open. Who has accepted it, also by the webhook a moment ago, gets the invite.
async fn accepted_before(api: &Api, mut tx: Tx, id: Uuid, me: &SignedIn) -> Result<Json<InviteJson>, Problem> {
    let invite = tx.invite(id).await?.ok_or_else(Problem::not_found)?;
    if is_accepted_by(&invite, &me.clerk_user_id) {
        return answered(api, tx, id).await;
    }
    Err(closed(invite.status_at(tx.now())))
}

fn is_accepted_by(invite: &Invite, clerk_user_id: &str) -> bool {
    invite.accepted_by_clerk_id.as_deref() == Some(clerk_user_id)
}

/// Decline an invite
///
/// Declining is final; inviting again creates a new invite.
#[utoipa::path(
    post, path = "/v1/me/invites/{id}/decline", tag = tag::ME, operation_id = "declineInvite",
    params(("id" = Uuid, Path, description = "The invite's id", example = example::invite_id)),
    responses((status = 200, description = "The invite as it is now", body = InviteJson, example = example::declined_invite)),
    security(("session" = []), ("session_cookie" = [])),
    extensions(("x-problems" = json!([
        Code::NotFound, Code::NotSynced, Code::InviteAccepted, Code::InviteDeclined, Code::InviteRevoked,
        Code::InviteExpired
    ])))
)]
pub(super) async fn decline(State(api): State<Api>, me: SignedIn, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    api.app
        .store
        .again_on_conflict(|store| decline_one(&api, store, &me, id))
        .await
}

async fn decline_one(api: &Api, store: Store, me: &SignedIn, id: Uuid) -> Result<Json<InviteJson>, Problem> {
    let (Invitee { mut tx, person }, invite) = authenticate_for(api, &store, me, id).await?;
    if invite.is_none() || !tx.decline_invite(id).await? {
        return Err(not_open(&mut tx, id, person.id).await?);
    }
    answered(api, tx, id).await
}

/// Dismiss an invite
///
/// It stays open, and the banner shows it again at the next sign-in.
#[utoipa::path(
    post, path = "/v1/me/invites/{id}/dismiss", tag = tag::ME, operation_id = "dismissInvite",
    params(("id" = Uuid, Path, description = "The invite's id", example = example::invite_id)),
    responses((status = 200, description = "The invite as it is now", body = InviteJson, example = example::dismissed_invite)),
    security(("session" = []), ("session_cookie" = [])),
    extensions(("x-problems" = json!([
        Code::NotFound, Code::NotSynced, Code::InviteAccepted, Code::InviteDeclined, Code::InviteRevoked,
        Code::InviteExpired
    ])))
)]
pub(super) async fn dismiss(State(api): State<Api>, me: SignedIn, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    api.app
        .store
        .again_on_conflict(|store| dismiss_one(&api, store, &me, id))
        .await
}

async fn dismiss_one(api: &Api, store: Store, me: &SignedIn, id: Uuid) -> Result<Json<InviteJson>, Problem> {
    let (Invitee { mut tx, person }, invite) = authenticate_for(api, &store, me, id).await?;
    if invite.is_none() || !tx.dismiss_invite(id, person.id).await? {
        return Err(not_open(&mut tx, id, person.id).await?);
    }
    answered(api, tx, id).await
}

/// The person who answers, locked by the transaction.
struct Invitee {
    tx: Tx,
    person: matching::Person,
}

/// Refuses impersonated sessions. Asks Clerk about people that usher does not know or has no recent data of. Banned, locked
/// and deleted people have no invites: 404. Who is still unknown after that may be known in a second: 409 `not_synced`.
async fn authenticate(api: &Api, store: &Store, me: &SignedIn) -> Result<Invitee, Problem> {
    me.decides()?;
    let mut tx = store.begin().await?;
    let known = tx.lock_people(&[&me.clerk_user_id]).await?.into_iter().next();
    if known.as_ref().is_some_and(|person| is_fresh(person, tx.now())) || api.app.clerk.is_none() {
        let known = known.ok_or(Code::NotSynced)?;
        return invitee_of(tx, Some(&known));
    }
    drop(tx);
    authenticate_by_clerk(api, store, me).await
}

/// After `authenticate` found that the invite is not theirs: they may have verified its address only just now.
async fn authenticate_again(api: &Api, store: &Store, me: &SignedIn) -> Result<Option<Invitee>, Problem> {
    if api.app.clerk.is_none() {
        return Ok(None);
    }
    authenticate_by_clerk(api, store, me).await.map(Some)
}

async fn authenticate_by_clerk(api: &Api, store: &Store, me: &SignedIn) -> Result<Invitee, Problem> {
    let profile = ask_clerk(api, &me.clerk_user_id).await;
    let mut tx = store.begin().await?;
    let person = match profile {
        Ok(Some(profile)) => tx.save_people(&[&profile]).await?.into_iter().next(),
        // Deleted in Clerk.
        Ok(None) => None,
        Err(_) => {
            let known = tx.lock_people(&[&me.clerk_user_id]).await?.into_iter().next();
            Some(known.ok_or(Code::NotSynced)?)
        }
    };
    invitee_of(tx, person.as_ref())
}

fn invitee_of(tx: Tx, person: Option<&Person>) -> Result<Invitee, Problem> {
    let person = person.and_then(Person::for_matching).filter(|person| !person.blocked);
    let person = person.ok_or_else(Problem::not_found)?;
    Ok(Invitee { tx, person })
}

/// Authenticates, and finds the invite if it is to a verified address of theirs, open or not. Asks Clerk once more before it
/// returns none.
async fn authenticate_for(
    api: &Api,
    store: &Store,
    me: &SignedIn,
    id: Uuid,
) -> Result<(Invitee, Option<Invite>), Problem> {
    let mut invitee = authenticate(api, store, me).await?;
    let invite = invitee.tx.invite_of(id, invitee.person.id).await?;
    if invite.is_some() {
        return Ok((invitee, invite));
    }
    drop(invitee.tx);
    let mut invitee = match authenticate_again(api, store, me).await? {
        Some(invitee) => invitee,
        None => authenticate(api, store, me).await?,
    };
    let invite = invitee.tx.invite_of(id, invitee.person.id).await?;
    Ok((invitee, invite))
}

async fn answered(api: &Api, mut tx: Tx, id: Uuid) -> Result<Json<InviteJson>, Problem> {
    let json = invite_json(api, &mut tx, id).await?.ok_or_else(Problem::not_found)?;
    tx.commit().await?;
    Ok(Json(json))
}

/// Why the invite can't be answered. An unknown one and another person's get the same answer.
async fn not_open(tx: &mut Tx, id: Uuid, person_id: Uuid) -> Result<Problem, StoreError> {
    let now = tx.now();
    let invite = tx.invite_of(id, person_id).await?;
    Ok(invite.map_or_else(Problem::not_found, |invite| closed(invite.status_at(now))))
}

/// Why an open invite can't be accepted.
pub(super) fn refused_by(obstacle: Obstacle) -> Problem {
    let code = match obstacle {
        Obstacle::TargetDeleted => Code::TargetDeleted,
        Obstacle::UnknownRole => Code::UnknownRole,
        Obstacle::InviterBlocked | Obstacle::InviterLostRights => Code::InviterLostRights,
        Obstacle::AppRefuses => Code::AppRefused,
    };
    code.into()
}

/// Why an invite that is not open can't be answered.
pub(super) fn closed(status: Status) -> Problem {
    let code = match status {
        Status::Accepted => Code::InviteAccepted,
        Status::Declined => Code::InviteDeclined,
        Status::Revoked => Code::InviteRevoked,
        Status::Expired => Code::InviteExpired,
        // Open, but its organization or project is deleted.
        Status::Pending => Code::NotFound,
    };
    code.into()
}
