//! The invitee's invites, and their answers.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use chrono::TimeDelta;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::auth::{AppClient, SignedIn};
use super::body::{Id, Segment};
use super::invites::invite_json;
use super::{example, tag};
use crate::fields::{Fields, body, text};
use crate::flows::{Accepted, accept_candidates, profile_of};
use crate::invites::accept::Obstacle;
use crate::invites::email::EmailKey;
use crate::invites::is_clerk_user_id;
use crate::invites::matching;
use crate::invites::roles::Roles;
use crate::invites::token::LinkClaim;
use crate::invites::{Invite, Status};
use crate::problem::{Code, Problem};
use crate::store::{Person, Profile, Store, StoreError, Tx};
use crate::view::InviteJson;
use usher_base::mask::mask;
use usher_clerk::BackendError;

/// Older data from Clerk may be out of date, because webhooks get lost.
const STALE: TimeDelta = TimeDelta::hours(24);

/// A person's open invites.
#[derive(Serialize, ToSchema)]
pub(super) struct Banner {
    /// The invites to show: open, to a verified address of the person, and not dismissed.
    items: Vec<InviteJson>,
    /// Whether the list is complete. False if usher has no recent data of the person and could not ask Clerk.
    synced: bool,
}

/// List the signed-in person's invites
///
/// For the banner. It does not depend on webhooks: if usher does not know the person, or has had no data of them for a day,
/// it asks Clerk's Backend API, if that is configured. It changes nothing.
#[utoipa::path(
    get, path = "/v1/me/invites", tag = tag::ME, operation_id = "listMyInvites",
    responses((status = 200, description = "What the banner shows", body = Banner, example = example::banner)),
    security(("session" = []), ("session_cookie" = [])),
)]
pub(super) async fn list(State(api): State<Api>, me: SignedIn) -> Result<Json<Banner>, Problem> {
    banner(&api, &me.clerk_user_id, None).await
}

/// List a person's invites
///
/// The banner, for apps that render on the server. For a key that is limited to organizations, a person without membership
/// and invites there looks unknown: `items` is empty and `synced` false.
#[utoipa::path(
    get, path = "/v1/users/{clerk_user_id}/invites", tag = tag::INVITES, operation_id = "listUserInvites",
    params(("clerk_user_id" = String, Path, description = "Clerk's id of the person",
        pattern = "^user_[A-Za-z0-9_]{1,59}$", example = example::clerk_user_id)),
    responses((status = 200, description = "What the banner shows", body = Banner, example = example::banner)),
    security(("api_key" = [])),
)]
pub(super) async fn list_of(
    State(api): State<Api>,
    client: AppClient,
    Segment(clerk_user_id): Segment,
) -> Result<Json<Banner>, Problem> {
    if !is_clerk_user_id(&clerk_user_id) {
        return Err(Code::InvalidId.into());
    }
    banner(&api, &clerk_user_id, client.organizations()).await
}

/// A person's open invites, in all organizations or only in `within`.
async fn banner(api: &Api, clerk_user_id: &str, within: Option<&HashSet<Uuid>>) -> Result<Json<Banner>, Problem> {
    let roles = &api.app.config.roles;
    let mut tx = api.app.store.read().await?;
    let known = known(&mut tx, clerk_user_id).await?;
    let is_theirs = is_within(&mut tx, known.as_ref(), within).await?;
    if known.as_ref().is_some_and(|person| is_fresh(person, tx.now())) {
        let items = items(&mut tx, None, known.as_ref(), within, roles).await?;
        drop(tx);
        let synced = is_theirs || !items.is_empty();
        if !synced {
            // Clerk is asked about unknown people. Asking here, too, makes both take the same time.
            let _ = ask_clerk(api, clerk_user_id).await;
        }
        return Ok(Json(Banner { items, synced }));
    }
    drop(tx);
    let asked = ask_clerk(api, clerk_user_id).await.ok().flatten();
    let is_all = asked.is_some() || (known.is_some() && api.app.clerk.is_none());
    let mut tx = api.app.store.read().await?;
    let items = items(&mut tx, asked.as_ref(), known.as_ref(), within, roles).await?;
    let synced = is_all && (is_theirs || !items.is_empty());
    Ok(Json(Banner { items, synced }))
}

/// Whether the person is a member in one of these organizations or their projects. True without a limit.
async fn is_within(tx: &mut Tx, person: Option<&Person>, within: Option<&HashSet<Uuid>>) -> Result<bool, StoreError> {
    let Some(organizations) = within else {
        return Ok(true);
    };
    let Some(admin_id) = person.and_then(|person| person.admin_id) else {
        return Ok(false);
    };
    Ok(!tx.people_within(&[admin_id], organizations).await?.is_empty())
}

/// The invites that the banner shows, by Clerk's fresh profile if there is one, else by the stored person.
async fn items(
    tx: &mut Tx,
    asked: Option<&Profile>,
    known: Option<&Person>,
    within: Option<&HashSet<Uuid>>,
    roles: &Roles,
) -> Result<Vec<InviteJson>, StoreError> {
    let shown = match (asked, known) {
        (_, Some(person)) if person.deleted_at.is_some() => Vec::new(),
        (Some(profile), known) => shown_to_profile(tx, profile, known, roles).await?,
        (None, Some(person)) => shown_to_person(tx, person, roles).await?,
        (None, None) => Vec::new(),
    };
    let now = tx.now();
    let may_see = |invite: &InviteJson| within.is_none_or(|within| within.contains(&invite.organization_id()));
    let views = tx.invite_views(&shown).await?.into_iter();
    Ok(views.map(|view| InviteJson::at(view, now)).filter(may_see).collect())
}

async fn known(tx: &mut Tx, clerk_user_id: &str) -> Result<Option<Person>, StoreError> {
    Ok(tx.people_by_clerk_id(&[clerk_user_id]).await?.into_iter().next())
}

fn is_fresh(person: &Person, now: chrono::DateTime<chrono::Utc>) -> bool {
    person.deleted_at.is_some() || person.seen_at.is_some_and(|seen_at| seen_at + STALE > now)
}

/// Asks Clerk's Backend API, if it is configured. Not within a transaction, which would stay open meanwhile.
async fn ask_clerk(api: &Api, clerk_user_id: &str) -> Result<Option<Profile>, BackendError> {
    match &api.app.clerk {
        Some(clerk) => Ok(clerk.user(clerk_user_id).await?.map(profile_of)),
        None => Ok(None),
    }
}

/// The invites that the person has not dismissed and could accept.
async fn shown_to_person(tx: &mut Tx, person: &Person, roles: &Roles) -> Result<Vec<Uuid>, StoreError> {
    let Some(person) = person.for_matching().filter(|person| !person.blocked) else {
        return Ok(Vec::new());
    };
    let waiting = tx.invite_candidates(&[person]).await?;
    Ok(waiting
        .iter()
        .filter(|waiting| !waiting.is_dismissed() && waiting.facts.obstacle(roles).is_none())
        .map(|waiting| waiting.invite.id)
        .collect())
}

async fn shown_to_profile(
    tx: &mut Tx,
    profile: &Profile,
    known: Option<&Person>,
    roles: &Roles,
) -> Result<Vec<Uuid>, StoreError> {
    // Known, but the app has cut the link.
    let is_cut = known.is_some_and(|person| person.seen_at.is_some() && person.admin_id.is_none());
    if profile.banned || profile.locked || is_cut {
        return Ok(Vec::new());
    }
    let verified: Vec<&EmailKey> = profile
        .addresses
        .iter()
        .filter(|address| address.verified)
        .map(|address| &address.key)
        .collect();
    let open = tx.pending_invites_at(&verified).await?;
    let dismissed = match known {
        Some(person) => tx.dismissed_by(person.id).await?,
        None => Vec::new(),
    };
    Ok(open
        .iter()
        .filter(|open| open.facts.obstacle(roles).is_none())
        .map(|open| open.invite.id)
        .filter(|id| !dismissed.contains(id))
        .collect())
}

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
        Code::InviteExpired, Code::InviterLostRights, Code::UnknownRole
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
        Code::LinkExpired, Code::InviteAccepted, Code::InviteDeclined, Code::InviteRevoked
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
        return accepted_before(tx, invite.id, me).await;
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
        return accepted_before(tx, invite.id, me).await;
    }
    answered(tx, invite.id).await
}

/// The answer for an invite that is no longer open. Who has accepted it, also by the webhook a moment ago, gets the invite.
async fn accepted_before(mut tx: Tx, id: Uuid, me: &SignedIn) -> Result<Json<InviteJson>, Problem> {
    let invite = tx.invite(id).await?.ok_or_else(Problem::not_found)?;
    if is_accepted_by(&invite, &me.clerk_user_id) {
        return answered(tx, id).await;
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
    answered(tx, id).await
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
    answered(tx, id).await
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

async fn answered(mut tx: Tx, id: Uuid) -> Result<Json<InviteJson>, Problem> {
    let json = invite_json(&mut tx, id).await?.ok_or_else(Problem::not_found)?;
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
