//! The invitee: what waits for them, and their answer.

use axum::Json;
use axum::extract::{Path, State};
use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Api;
use super::auth::{AppClient, SignedIn};
use super::body::{Fields, Id};
use super::invites::invite_json;
use super::view::InviteJson;
use crate::clerk::BackendError;
use crate::flows::{Admitted, admit, profile_of};
use crate::invites::email::{EmailKey, mask};
use crate::invites::matching;
use crate::invites::{Invite, Status};
use crate::problem::{Code, Problem};
use crate::store::{Person, Profile, StoreError, Tx};

/// What Clerk said so long ago may be out of date: webhooks get lost.
const STALE: TimeDelta = TimeDelta::hours(24);

/// `GET /v1/me/invites`: what the banner shows. It must not depend on webhooks, and it changes nothing.
pub(super) async fn list(State(api): State<Api>, me: SignedIn) -> Result<Json<Value>, Problem> {
    banner(&api, &me.clerk_user_id, |_| true).await
}

/// `GET /v1/users/{clerk_user_id}/invites`: the same, for apps that render on the server.
pub(super) async fn list_of(
    State(api): State<Api>,
    client: AppClient,
    Path(clerk_user_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    banner(&api, &clerk_user_id, |invite| client.may_use(invite.organization_id())).await
}

async fn banner(api: &Api, clerk_user_id: &str, may_see: impl Fn(&InviteJson) -> bool) -> Result<Json<Value>, Problem> {
    let mut tx = api.app.store.read().await?;
    let known = known(&mut tx, clerk_user_id).await?;
    let is_fresh = known.as_ref().is_some_and(|person| is_fresh(person, tx.now()));
    drop(tx);
    let asked = if is_fresh {
        None
    } else {
        ask_clerk(api, clerk_user_id).await.ok().flatten()
    };
    let synced = is_fresh || asked.is_some() || (known.is_some() && api.app.clerk.is_none());
    let mut tx = api.app.store.read().await?;
    let shown = match (asked, known) {
        (_, Some(person)) if person.deleted_at.is_some() => Vec::new(),
        (Some(profile), known) => shown_to_profile(&mut tx, &profile, known.and_then(|person| person.admin_id)).await?,
        (None, Some(person)) => shown_to_person(&mut tx, &person).await?,
        (None, None) => Vec::new(),
    };
    let now = tx.now();
    let items: Vec<InviteJson> = tx
        .invite_views(&shown)
        .await?
        .into_iter()
        .map(|view| InviteJson::at(view, now))
        .filter(may_see)
        .collect();
    Ok(Json(json!({ "items": items, "synced": synced })))
}

async fn known(tx: &mut Tx, clerk_user_id: &str) -> Result<Option<Person>, StoreError> {
    Ok(tx.people_by_clerk_id(&[clerk_user_id]).await?.into_iter().next())
}

fn is_fresh(person: &Person, now: chrono::DateTime<chrono::Utc>) -> bool {
    person.deleted_at.is_some() || person.seen_at.is_some_and(|seen_at| seen_at + STALE > now)
}

/// What Clerk's Backend API says, where it is configured and answers. Asked outside of any transaction.
async fn ask_clerk(api: &Api, clerk_user_id: &str) -> Result<Option<Profile>, BackendError> {
    match &api.app.clerk {
        Some(clerk) => Ok(clerk.user(clerk_user_id).await?.map(profile_of)),
        None => Ok(None),
    }
}

async fn shown_to_person(tx: &mut Tx, person: &Person) -> Result<Vec<Uuid>, StoreError> {
    let Some(person) = person.for_matching().filter(|person| !person.blocked) else {
        return Ok(Vec::new());
    };
    let waiting = tx.waiting_for(&[person.admin_id]).await?;
    Ok(waiting
        .iter()
        .filter(|waiting| !waiting.is_dismissed())
        .map(|waiting| waiting.invite.id)
        .collect())
}

async fn shown_to_profile(tx: &mut Tx, profile: &Profile, admin_id: Option<Uuid>) -> Result<Vec<Uuid>, StoreError> {
    if profile.banned || profile.locked {
        return Ok(Vec::new());
    }
    let verified: Vec<&EmailKey> = profile
        .addresses
        .iter()
        .filter(|address| address.verified)
        .map(|address| &address.key)
        .collect();
    let ids = tx.waiting_at(&verified).await?;
    let dismissed = match admin_id {
        Some(admin_id) => tx.dismissed_by(admin_id).await?,
        None => Vec::new(),
    };
    Ok(ids.into_iter().filter(|id| !dismissed.contains(id)).collect())
}

/// `POST /v1/me/invites/{id}/accept`
pub(super) async fn accept(State(api): State<Api>, me: SignedIn, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    let (arrival, invite) = arrive_for(&api, &me, id).await?;
    let invite = invite.ok_or_else(Problem::not_found)?;
    let_in(&api, arrival, &invite).await
}

/// `POST /v1/me/invites/accept`: by the link. It opens the door for its own address only.
pub(super) async fn accept_by_token(
    State(api): State<Api>,
    me: SignedIn,
    mut fields: Fields,
) -> Result<Json<InviteJson>, Problem> {
    let token = fields.required("token", |value| {
        value.as_str().map(str::to_owned).ok_or("must be a string".to_owned())
    });
    let token = fields.finish(token)?;
    let claim = api.app.token_key.verify(&token).ok_or_else(Problem::not_found)?;
    let (mut arrival, theirs) = arrive_for(&api, &me, claim.invite_id).await?;
    let invite = arrival
        .tx
        .invite(claim.invite_id)
        .await?
        .filter(|invite| invite.token_version == claim.version);
    let invite = invite.ok_or_else(Problem::not_found)?;
    if theirs.is_none() {
        return Err(other_address(&invite));
    }
    if invite.status_at(arrival.tx.now()) == Status::Expired {
        return Err(Code::LinkExpired.into());
    }
    let_in(&api, arrival, &invite).await
}

fn other_address(invite: &Invite) -> Problem {
    let masked = mask(&invite.email);
    Problem::new(Code::OtherAddress).with_detail(format!(
        "Sign in with {masked}, verified, or add and verify it in your account."
    ))
}

async fn let_in(api: &Api, arrival: Arrival, invite: &Invite) -> Result<Json<InviteJson>, Problem> {
    let Arrival { mut tx, person } = arrival;
    let waiting = tx.waiting_for(&[person.admin_id]).await?;
    let Some(waiting) = waiting.iter().find(|waiting| waiting.invite.id == invite.id) else {
        return Err(closed(invite.status_at(tx.now())));
    };
    let Admitted { invites, refused } = admit(&mut tx, &[waiting], &api.app.config.roles).await?;
    if !refused.is_empty() {
        return Err(Code::InviterLostRights.into());
    }
    if invites.is_empty() {
        return Err(not_open(&mut tx, invite.id, person.admin_id).await?);
    }
    answered(tx, invite.id).await
}

/// `POST /v1/me/invites/{id}/decline`
pub(super) async fn decline(State(api): State<Api>, me: SignedIn, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    let (Arrival { mut tx, person }, invite) = arrive_for(&api, &me, id).await?;
    if invite.is_none() || !tx.decline_invite(id).await? {
        return Err(not_open(&mut tx, id, person.admin_id).await?);
    }
    answered(tx, id).await
}

/// `POST /v1/me/invites/{id}/dismiss`
pub(super) async fn dismiss(State(api): State<Api>, me: SignedIn, Id(id): Id) -> Result<Json<InviteJson>, Problem> {
    let (Arrival { mut tx, person }, invite) = arrive_for(&api, &me, id).await?;
    if invite.is_none() || !tx.dismiss_invite(id, person.admin_id).await? {
        return Err(not_open(&mut tx, id, person.admin_id).await?);
    }
    answered(tx, id).await
}

/// Somebody who answers, in a transaction that holds them as they are.
struct Arrival {
    tx: Tx,
    person: matching::Person,
}

/// Whoever impersonates decides nothing; whom usher does not know, or only from long ago, Clerk is asked about; whoever
/// is banned, locked or deleted has no invites.
async fn arrive(api: &Api, me: &SignedIn) -> Result<Arrival, Problem> {
    me.decides()?;
    let mut tx = api.app.store.begin().await?;
    let known = tx.hold_people(&[&me.clerk_user_id]).await?.into_iter().next();
    if known.as_ref().is_some_and(|person| is_fresh(person, tx.now())) || api.app.clerk.is_none() {
        return present(tx, known);
    }
    drop(tx);
    arrive_by_clerk(api, me, known).await
}

/// For the invite that `arrive` found not to be theirs: they may have verified its address only just now.
async fn arrive_again(api: &Api, me: &SignedIn) -> Result<Option<Arrival>, Problem> {
    if api.app.clerk.is_none() {
        return Ok(None);
    }
    arrive_by_clerk(api, me, None).await.map(Some)
}

async fn arrive_by_clerk(api: &Api, me: &SignedIn, known: Option<Person>) -> Result<Arrival, Problem> {
    let profile = ask_clerk(api, &me.clerk_user_id).await;
    let mut tx = api.app.store.begin().await?;
    let person = match profile {
        Ok(Some(profile)) => tx.save_people(&[&profile]).await?.into_iter().next(),
        // Clerk knows nobody of this id any more.
        Ok(None) => None,
        Err(_) => match known {
            Some(_) => tx.hold_people(&[&me.clerk_user_id]).await?.into_iter().next(),
            None => None,
        },
    };
    present(tx, person)
}

fn present(tx: Tx, person: Option<Person>) -> Result<Arrival, Problem> {
    let person = person
        .as_ref()
        .and_then(Person::for_matching)
        .filter(|person| !person.blocked);
    let person = person.ok_or_else(Problem::not_found)?;
    Ok(Arrival { tx, person })
}

/// Arrives, and finds an invite that names a verified address of theirs, open or not. Asks Clerk once more before it
/// says that there is none.
async fn arrive_for(api: &Api, me: &SignedIn, id: Uuid) -> Result<(Arrival, Option<Invite>), Problem> {
    let mut arrival = arrive(api, me).await?;
    let invite = arrival.tx.invite_of(id, arrival.person.admin_id).await?;
    if invite.is_some() {
        return Ok((arrival, invite));
    }
    drop(arrival.tx);
    let mut arrival = match arrive_again(api, me).await? {
        Some(arrival) => arrival,
        None => arrive(api, me).await?,
    };
    let invite = arrival.tx.invite_of(id, arrival.person.admin_id).await?;
    Ok((arrival, invite))
}

async fn answered(mut tx: Tx, id: Uuid) -> Result<Json<InviteJson>, Problem> {
    let json = invite_json(&mut tx, id).await?.ok_or_else(Problem::not_found)?;
    tx.commit().await?;
    Ok(Json(json))
}

/// Why an invite can't be answered: unknown and another's look alike.
async fn not_open(tx: &mut Tx, id: Uuid, admin_id: Uuid) -> Result<Problem, StoreError> {
    let now = tx.now();
    let invite = tx.invite_of(id, admin_id).await?;
    Ok(invite.map_or_else(Problem::not_found, |invite| closed(invite.status_at(now))))
}

/// What an invite that is not open is instead.
pub(super) fn closed(status: Status) -> Problem {
    let code = match status {
        Status::Accepted => Code::InviteAccepted,
        Status::Declined => Code::InviteDeclined,
        Status::Revoked => Code::InviteRevoked,
        Status::Expired => Code::InviteExpired,
        // Open, but what it leads into is gone.
        Status::Pending => Code::NotFound,
    };
    code.into()
}
