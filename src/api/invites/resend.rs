//! Sending an invite's mail again.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures::FutureExt as _;
use uuid::Uuid;

use super::{not_open, seconds_until, too_many_mails, visible_to};
use crate::api::auth::AppClient;
use crate::api::body::Id;
use crate::api::me::refused_by;
use crate::api::{Api, example, tag};
use crate::flows::{Reservation, WantedMail, count_mails, room_for_mails};
use crate::invites::accept::Obstacle;
use crate::invites::limits::RecentMails;
use crate::invites::roles::Roles;
use crate::problem::{Code, Problem};
use crate::store::{DeliveryKind, NewDelivery, StoreError, Tx};
use crate::view::InviteJson;

/// Send an invite's mail again
///
/// The mail has the same link; an expired invite is renewed. At most one mail in five minutes and ten in a day are sent for an
/// invite, and the daily caps apply, including the one per address: `Retry-After` says how long to wait. An address that
/// bounced is tried again. An invite that can't be accepted is not sent: if its organization or project was deleted, its role
/// is no longer configured, or its inviter is banned or may no longer give the role.
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
        visible_to(api, client, tx, id).await?;
        return Err(not_open(tx, id).await?);
    };
    let visible = visible_to(api, client, tx, id).await?;
    if let Some(obstacle) = obstacle(tx, id, &api.app.config.roles).await? {
        return Err(refused_by(obstacle));
    }
    let mails = tx.mails_since(&[id], RecentMails::since(now)).await?;
    if let Some((_, until)) = mails.get(&id).and_then(|mails| mails.hold(now)) {
        return Err(Problem::new(Code::ResendTooSoon).retry_after(seconds_until(until, now)));
    }
    let wanted = WantedMail {
        inviter: invite.invited_by,
        organization: Some(visible.organization_id()),
        address: invite.email_key.digest(),
    };
    let caps = api.app.config.mail_caps;
    if room_for_mails(tx, &[wanted], &[], caps).await? != [Reservation::Granted] {
        return Err(too_many_mails(now));
    }
    // The app asks for this address again, so it is tried again even if it bounced.
    tx.release_address(&invite.email_key).await?;
    let mail = NewDelivery {
        invite_id: id,
        kind: DeliveryKind::Invite,
        to_email: invite.email,
    };
    tx.queue_deliveries(&[mail]).await?;
    let json = visible_to(api, client, tx, id).await?;
    count_mails(tx, &[wanted], caps).await?;
    Ok(json)
}

/// Why the invite can't be accepted, if so.
async fn obstacle(tx: &mut Tx, id: Uuid, roles: &Roles) -> Result<Option<Obstacle>, StoreError> {
    let facts = tx.accept_facts(&[id]).await?;
    Ok(facts.get(&id).and_then(|facts| facts.obstacle(roles)))
}
