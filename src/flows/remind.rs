//! Reminders for invites without an answer.

use super::mail_caps::{Reservation, WantedMail, count_mails, room_for_mails};
use crate::invites::limits::MailCaps;
use crate::invites::reminders::{PLAN_AFTER, Reminders};
use crate::invites::roles::Roles;
use crate::store::{DeliveryKind, NewDelivery, Remindable, ReminderPlan, StoreError, Tx};

/// Plans the reminders of invites whose validity period has none planned: invites that are new, invited again or
/// renewed. The code that makes them need not know about reminders. Returns how many invites there were.
pub async fn plan_reminders(tx: &mut Tx, reminders: &Reminders, limit: u32) -> Result<usize, StoreError> {
    let now = tx.now();
    let plans: Vec<ReminderPlan> = tx
        .invites_without_plan(now - PLAN_AFTER, limit)
        .await?
        .into_iter()
        .map(|invite| {
            // A second invitation moves `invited_at`, a renewal does not.
            let from = if invite.is_first_life { invite.invited_at } else { now };
            ReminderPlan {
                invite_id: invite.id,
                from,
                expires_at: invite.expires_at,
                remind_at: reminders.next(from, invite.expires_at, now),
                is_due: false,
            }
        })
        .collect();
    tx.plan_reminders(&plans).await?;
    Ok(plans.len())
}

/// Queues the reminders that are due, each once, and plans the next ones; if reminders were switched off after they
/// were planned, none. No reminder is sent for an invite that can't be accepted, or above the address's daily cap.
/// Returns how many were due.
pub async fn remind(
    tx: &mut Tx,
    reminders: &Reminders,
    roles: &Roles,
    caps: MailCaps,
    limit: u32,
) -> Result<usize, StoreError> {
    let now = tx.now();
    let due = tx.invites_to_remind(limit).await?;
    let plans: Vec<ReminderPlan> = due
        .iter()
        .map(|invite| ReminderPlan {
            invite_id: invite.id,
            from: invite.reminders_from,
            expires_at: invite.expires_at,
            remind_at: reminders.next(invite.reminders_from, invite.expires_at, now),
            is_due: true,
        })
        .collect();
    let ours = tx.plan_reminders(&plans).await?;
    let wanted: Vec<&Remindable> = due
        .iter()
        .filter(|invite| !reminders.are_off() && ours.contains(&invite.id) && invite.facts.obstacle(roles).is_none())
        .collect();
    let asked: Vec<WantedMail> = wanted
        .iter()
        .map(|invite| WantedMail {
            inviter: None,
            organization: None,
            address: invite.email_key.digest(),
        })
        .collect();
    let (mut mails, mut sent) = (Vec::new(), Vec::new());
    let room = room_for_mails(tx, &asked, &[], caps).await?;
    for ((invite, asked), reservation) in wanted.iter().zip(asked).zip(room) {
        if reservation == Reservation::Granted {
            sent.push(asked);
            mails.push(NewDelivery {
                invite_id: invite.id,
                kind: DeliveryKind::Reminder,
                to_email: invite.email.clone(),
            });
        }
    }
    tx.queue_deliveries(&mails).await?;
    count_mails(tx, &sent, caps).await?;
    Ok(due.len())
}
