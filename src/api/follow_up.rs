//! After inviting: lists, sending again, taking back.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::auth::AppClient;
use super::body::{Fields, Id, page_limit, uuid};
use super::invites::{email, invite_json, inviter, seconds_of, too_many_mails};
use super::me::refused_by;
use super::view::InviteJson;
use super::{example, tag};
use crate::flows::{Reservation, WantedMail, count_mails, room_for_mails};
use crate::invites::Status;
use crate::invites::accept::Obstacle;
use crate::invites::email::EmailAddress;
use crate::invites::limits::RecentMails;
use crate::invites::roles::Roles;
use crate::problem::{Code, Problem};
use crate::store::{DeliveryKind, InviteFilter, NewDelivery, PersonRef, StoreError, Tx};

/// Invites on a page, unless the caller says otherwise.
const PAGE: u32 = 50;
/// At most.
const MAX_PAGE: u32 = 200;

/// A page of a list of invites.
#[derive(Serialize, ToSchema)]
pub(super) struct InvitePage {
    /// The invites, newest first.
    items: Vec<InviteJson>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// List invites
///
/// Newest first. The filters narrow the list down together. Pages stay stable while invites are added: follow
/// `next_cursor` until it is null.
#[utoipa::path(
    get, path = "/v1/invites", tag = tag::INVITES, operation_id = "listInvites",
    params(
        ("organization_id" = Option<Uuid>, Query, description = "Only into this organization and its projects"),
        ("project_id" = Option<Uuid>, Query, description = "Only into this project"),
        ("email" = Option<String>, Query, description = "Only of this address; case does not matter", format = Email),
        ("status" = Option<Status>, Query, description = "Only those with this status now"),
        ("invited_by" = Option<String>, Query, description = "Only by this person: an admin's id or a Clerk user id"),
        ("limit" = Option<u32>, Query, description = "Page size; 50 by default", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the previous page"),
    ),
    responses((status = 200, description = "A page", body = InvitePage, example = example::invite_page)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::InvalidRequest])))
)]
pub(super) async fn list(
    State(api): State<Api>,
    client: AppClient,
    RawQuery(query): RawQuery,
) -> Result<Json<InvitePage>, Problem> {
    let mut tx = api.app.store.read().await?;
    let Some((mut filter, limit)) = filter(&mut tx, query.as_deref()).await? else {
        return Ok(Json(InvitePage {
            items: Vec::new(),
            next_cursor: None,
        }));
    };
    filter.within = client
        .organizations()
        .map(|organizations| organizations.iter().copied().collect());
    // One more than asked for tells whether there is a next page.
    let mut found = tx.list_invites(&filter, limit + 1).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found
        .last()
        .filter(|_| has_more)
        .map(|&(id, created_at)| cursor(created_at, id));
    let ids: Vec<Uuid> = found.iter().map(|&(id, _)| id).collect();
    let now = tx.now();
    let mut views: HashMap<Uuid, InviteJson> = tx
        .invite_views(&ids)
        .await?
        .into_iter()
        .map(|view| (view.invite.id, InviteJson::at(view, now)))
        .collect();
    // A project may have moved to an organization that the key may not see.
    views.retain(|_, invite| client.may_use(invite.organization_id()));
    let items = ids.iter().filter_map(|id| views.remove(id)).collect();
    Ok(Json(InvitePage { items, next_cursor }))
}

/// Reads the query; `None` if nothing can match, because its inviter is not there.
async fn filter(tx: &mut Tx, query: Option<&str>) -> Result<Option<(InviteFilter, u32)>, Problem> {
    let mut fields = Fields::of_query(query)?;
    let organization_id = fields.optional("organization_id", uuid);
    let project_id = fields.optional("project_id", uuid);
    let email = fields.optional("email", email);
    let status = fields.optional("status", status);
    let invited_by = fields.optional("invited_by", inviter);
    let limit = fields.optional("limit", page_limit(MAX_PAGE));
    let before = fields.optional("cursor", read_cursor);
    let invited_by = fields.finish(Some(invited_by))?;
    let invited_by = match invited_by {
        Some(PersonRef::Admin(id)) => Some(id),
        Some(person) => match tx.live_people(std::slice::from_ref(&person)).await?.get(&person) {
            Some(&id) => Some(id),
            None => return Ok(None),
        },
        None => None,
    };
    let email = email.map(|email: EmailAddress| email.key().clone());
    let filter = InviteFilter {
        organization_id,
        project_id,
        invited_by,
        email,
        status,
        before,
        within: None,
    };
    Ok(Some((filter, limit.unwrap_or(PAGE))))
}

fn status(value: Value) -> Result<Status, String> {
    let names: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("must be one of {}", names.join(", ")))
}

/// Where a page ended: the creation and the id of its last invite.
fn cursor(created_at: DateTime<Utc>, id: Uuid) -> String {
    let mut bytes = created_at.timestamp_micros().to_be_bytes().to_vec();
    bytes.extend_from_slice(id.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(value: Value) -> Result<(DateTime<Utc>, Uuid), String> {
    let read = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == 24)?;
        let micros = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        // Beyond the years that a database takes there are no invites.
        let created_at =
            DateTime::from_timestamp_micros(micros).filter(|at| (1970..=9999).contains(&chrono::Datelike::year(at)))?;
        Some((created_at, Uuid::from_slice(&bytes[8..]).ok()?))
    };
    value
        .as_str()
        .and_then(read)
        .ok_or_else(|| "must be a next_cursor of an earlier answer".to_owned())
}

/// Send an invite's mail again
///
/// The same link once more; an expired invite is renewed. Five minutes must lie between two mails, and a day has at most
/// ten, and the daily caps hold here, too, that of the address among them: `Retry-After` says how long to wait. An address
/// that mails bounced from is written to again. An invite that would let nobody in is not sent: where its organization or
/// project was deleted, its role is no longer known, or its inviter is banned or may no longer give the role.
#[utoipa::path(
    post, path = "/v1/invites/{id}/resend", tag = tag::INVITES, operation_id = "resendInvite",
    params(("id" = Uuid, Path, description = "The invite's id", example = example::invite_id)),
    responses((status = 202, description = "The mail is queued", body = InviteJson, example = example::new_invite)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([
        Code::NotFound, Code::InviteAccepted, Code::InviteDeclined, Code::InviteRevoked, Code::TargetDeleted,
        Code::UnknownRole, Code::InviterLostRights, Code::ResendTooSoon, Code::DailyMailCap
    ])))
)]
pub(super) async fn resend(
    State(api): State<Api>,
    client: AppClient,
    Id(id): Id,
) -> Result<(StatusCode, Json<InviteJson>), Problem> {
    let store = client.store(&api, 1);
    let json = store
        .transaction((&api, &client), |tx, (api, client)| {
            resend_in(tx, api, client, id).boxed()
        })
        .await?;
    Ok((StatusCode::ACCEPTED, Json(json)))
}

async fn resend_in(tx: &mut Tx, api: &Api, client: &AppClient, id: Uuid) -> Result<InviteJson, Problem> {
    let now = tx.now();
    let Some(invite) = tx.renew_invite(id, now + api.app.config.invite_ttl).await? else {
        seen_by(client, tx, id).await?;
        return Err(not_open(tx, id).await?);
    };
    let home = seen_by(client, tx, id).await?;
    if let Some(obstacle) = obstacle(tx, id, &api.app.config.roles).await? {
        return Err(refused_by(obstacle));
    }
    let mails = tx.mails_since(&[id], RecentMails::since(now)).await?;
    if let Some((_, until)) = mails.get(&id).and_then(|mails| mails.hold(now)) {
        return Err(Problem::new(Code::ResendTooSoon).retry_after(seconds_of(until - now)));
    }
    let wanted = WantedMail {
        inviter: invite.invited_by,
        organization: Some(home.organization_id()),
        address: invite.email_key.digest(),
    };
    let caps = api.app.config.mail_caps;
    if room_for_mails(tx, &[wanted], &[], caps).await? != [Reservation::Granted] {
        return Err(too_many_mails(now));
    }
    // Whoever resends vouches for the address.
    tx.release_address(&invite.email_key).await?;
    let mail = NewDelivery {
        invite_id: id,
        kind: DeliveryKind::Invite,
        to_email: invite.email,
    };
    tx.queue_deliveries(&[mail]).await?;
    let json = seen_by(client, tx, id).await?;
    count_mails(tx, &[wanted], caps).await?;
    Ok(json)
}

/// Why an invite would let nobody in, if it is so.
async fn obstacle(tx: &mut Tx, id: Uuid, roles: &Roles) -> Result<Option<Obstacle>, StoreError> {
    let facts = tx.accept_facts(&[id]).await?;
    Ok(facts.get(&id).and_then(|facts| facts.obstacle(roles)))
}

/// Take an invite back
///
/// Its link is void from now on, and a mail that is still queued is not sent.
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
        .transaction(client, |tx, client| revoke_in(tx, client, id).boxed())
        .await?;
    Ok(Json(json))
}

async fn revoke_in(tx: &mut Tx, client: &AppClient, id: Uuid) -> Result<InviteJson, Problem> {
    if !tx.revoke_invite(id).await? {
        seen_by(client, tx, id).await?;
        return Err(not_open(tx, id).await?);
    }
    seen_by(client, tx, id).await
}

/// The invite, if the key may see it; else nothing was there, and nothing is committed.
async fn seen_by(client: &AppClient, tx: &mut Tx, id: Uuid) -> Result<InviteJson, Problem> {
    let json = invite_json(tx, id).await?.ok_or_else(Problem::not_found)?;
    client.must_use(json.organization_id())?;
    Ok(json)
}

async fn not_open(tx: &mut Tx, id: Uuid) -> Result<Problem, Problem> {
    let now = tx.now();
    let invite = tx.invite(id).await?.ok_or_else(Problem::not_found)?;
    Ok(super::me::closed(invite.status_at(now)))
}

#[cfg(test)]
mod tests {
    use chrono::Datelike as _;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fuzz_a_cursor_is_read_as_it_was_written(micros in 0_i64..253_402_300_800_000_000, id: u128) {
            let (created_at, id) = (DateTime::from_timestamp_micros(micros).unwrap(), Uuid::from_u128(id));
            prop_assert_eq!(read_cursor(Value::from(cursor(created_at, id))), Ok((created_at, id)));
        }

        #[test]
        fn fuzz_a_cursor_is_nothing_that_no_database_takes(
            text in prop_oneof!["[A-Za-z0-9_-]{32}", "\\PC{0,40}", any::<[u8; 24]>().prop_map(|bytes| URL_SAFE_NO_PAD.encode(bytes))],
        ) {
            if let Ok((created_at, id)) = read_cursor(Value::from(text.as_str())) {
                prop_assert!((1970..=9999).contains(&created_at.year()));
                prop_assert_eq!(cursor(created_at, id), text);
            }
        }
    }
}
