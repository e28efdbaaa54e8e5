//! What happened to an invite and its mails, and what it waits for: for the board and `usher invites show`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::invites::roles::Roles;
use crate::invites::{Invite, Status};
use crate::store::{DeliveryStatus, DeliveryView, InviteView, StoreError, Tx};

/// One entry of the history.
#[derive(Debug, Serialize)]
pub struct Fact {
    pub at: DateTime<Utc>,
    /// May contain an address.
    pub what: String,
    /// The id of Clerk's event or the request that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The mail that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Uuid>,
}

/// Why an open invite is not accepted yet, for people.
pub async fn waits_for(
    tx: &mut Tx,
    view: &InviteView,
    roles: &Roles,
    now: DateTime<Utc>,
) -> Result<Option<String>, StoreError> {
    if view.invite.status_at(now) != Status::Pending {
        return Ok(None);
    }
    if let Some(obstacle) = view.facts.obstacle(roles) {
        return Ok(Some(format!("what makes it invalid now: {}", obstacle.text())));
    }
    let owners = tx.owners_of(&[&view.invite.email_key]).await?;
    let what = if owners.is_empty() {
        "a person who has verified this address in Clerk"
    } else if view.invite.dismissed_at.is_some() {
        "the person's next sign-in: they put the banner away"
    } else if view.invite.flagged_at.is_some() {
        "the person's answer in the banner"
    } else {
        "the person's next sign-in, or the link in the mail"
    };
    Ok(Some(what.to_owned()))
}

/// What happened to the invite and its mails, in order.
pub async fn story(tx: &mut Tx, invite: &Invite, now: DateTime<Utc>) -> Result<Vec<Fact>, StoreError> {
    let mut facts: Vec<Fact> = tx
        .history_of(invite.id)
        .await?
        .into_iter()
        .map(|entry| Fact {
            at: entry.at,
            what: match entry.reason {
                Some(reason) => format!("{}: {reason}", entry.event),
                None => entry.event.to_string(),
            },
            cause: entry.cause,
            delivery: None,
        })
        .collect();
    for delivery in tx.deliveries_of(invite.id).await? {
        facts.extend(mail_story(tx, &delivery).await?);
    }
    if invite.status == Status::Pending && invite.expires_at <= now {
        facts.push(Fact {
            at: invite.expires_at,
            what: "expired".to_owned(),
            cause: None,
            delivery: None,
        });
    }
    facts.sort_by_key(|fact| fact.at);
    Ok(facts)
}

async fn mail_story(tx: &mut Tx, delivery: &DeliveryView) -> Result<Vec<Fact>, StoreError> {
    let mail = format!(
        "{} mail {} to {}",
        delivery.kind, delivery.generation, delivery.to_email
    );
    let fact = |at, what| Fact {
        at,
        what,
        cause: None,
        delivery: Some(delivery.id),
    };
    let mut facts = vec![fact(delivery.queued_at, format!("{mail}: queued"))];
    for failure in tx.failures_about(&delivery.id.to_string()).await? {
        let what = format!("{mail}: attempt {} failed: {}", failure.attempt, failure.error);
        facts.push(fact(failure.failed_at, what));
    }
    if let Some(sent_at) = delivery.sent_at {
        let reply = delivery.reply.as_deref().map(|reply| format!(", answer {reply}"));
        let reply = reply.unwrap_or_default();
        facts.push(fact(
            sent_at,
            format!("{mail}: sent, Message-ID {}{reply}", delivery.message_id),
        ));
    }
    let last = facts.last().map_or(delivery.queued_at, |fact| fact.at);
    match delivery.status {
        DeliveryStatus::Failed => facts.push(fact(last, format!("{mail}: given up"))),
        DeliveryStatus::Suppressed => facts.push(fact(last, format!("{mail}: no longer wanted, not sent"))),
        DeliveryStatus::Queued | DeliveryStatus::Sent => {}
    }
    Ok(facts)
}
