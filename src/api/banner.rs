//! The banner: the invites that a person could accept now.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use chrono::TimeDelta;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::{AppClient, SignedIn};
use super::body::Segment;
use super::{Api, example, tag};
use crate::config::Config;
use crate::flows::{held_already, profile_of};
use crate::invites::email::EmailKey;
use crate::invites::is_clerk_user_id;
use crate::invites::roles::Roles;
use crate::problem::{Code, Problem};
use crate::store::{Person, Profile, StoreError, Tx};
use crate::view::InviteJson;
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
    let mut tx = api.app.store.read().await?;
    let known = known(&mut tx, clerk_user_id).await?;
    let is_theirs = is_within(&mut tx, known.as_ref(), within).await?;
    if known.as_ref().is_some_and(|person| is_fresh(person, tx.now())) {
        let items = items(api, &mut tx, None, known.as_ref(), within).await?;
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
    let items = items(api, &mut tx, asked.as_ref(), known.as_ref(), within).await?;
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
    api: &Api,
    tx: &mut Tx,
    asked: Option<&Profile>,
    known: Option<&Person>,
    within: Option<&HashSet<Uuid>>,
) -> Result<Vec<InviteJson>, StoreError> {
    let Config { roles, redirects, .. } = &*api.app.config;
    let shown = match (asked, known) {
        (_, Some(person)) if person.deleted_at.is_some() => Vec::new(),
        (Some(profile), known) => shown_to_profile(tx, profile, known, roles).await?,
        (None, Some(person)) => shown_to_person(tx, person, roles).await?,
        (None, None) => Vec::new(),
    };
    let now = tx.now();
    let may_see = |invite: &InviteJson| within.is_none_or(|within| within.contains(&invite.organization_id()));
    let mut views = tx.invite_views(&shown).await?;
    if let Some(admin_id) = known.and_then(|person| person.admin_id) {
        let wanted: Vec<_> = views
            .iter()
            .map(|view| (admin_id, view.target_organization_id, &view.invite))
            .collect();
        let held = held_already(tx, &wanted, roles).await?;
        views.retain(|view| !held.contains(&view.invite.id));
    }
    let views = views.into_iter();
    Ok(views
        .map(|view| InviteJson::at(view, redirects, now))
        .filter(may_see)
        .collect())
}

async fn known(tx: &mut Tx, clerk_user_id: &str) -> Result<Option<Person>, StoreError> {
    Ok(tx.people_by_clerk_id(&[clerk_user_id]).await?.into_iter().next())
}

pub(super) fn is_fresh(person: &Person, now: chrono::DateTime<chrono::Utc>) -> bool {
    person.deleted_at.is_some() || person.seen_at.is_some_and(|seen_at| seen_at + STALE > now)
}

/// Asks Clerk's Backend API, if it is configured. Not within a transaction, which would stay open meanwhile.
pub(super) async fn ask_clerk(api: &Api, clerk_user_id: &str) -> Result<Option<Profile>, BackendError> {
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
