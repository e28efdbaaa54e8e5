//! Calling invites to mind that nobody has answered.

use crate::invites::reminders::{PLAN_AFTER, Reminders};
use crate::store::{DeliveryKind, NewDelivery, ReminderPlan, StoreError, Tx};

/// Plans the reminders of invites with a life that has none planned: those made a while ago, those asked again, those
/// renewed. Whoever made them need not know of reminders. Returns how many there were.
///
/// # Errors
/// [`StoreError`].
pub async fn plan_reminders(tx: &mut Tx, reminders: &Reminders, limit: u32) -> Result<usize, StoreError> {
    let now = tx.now();
    let plans: Vec<ReminderPlan> = tx
        .invites_without_plan(now - PLAN_AFTER, limit)
        .await?
        .into_iter()
        .map(|invite| {
            // Asking again moves `invited_at`, renewing does not.
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

/// Queues the reminders that are due, each once, and plans the next; where reminders were switched off since they were
/// planned, none. Returns how many were due.
///
/// # Errors
/// [`StoreError`].
pub async fn remind(tx: &mut Tx, reminders: &Reminders, limit: u32) -> Result<usize, StoreError> {
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
    let mails: Vec<NewDelivery> = due
        .iter()
        .filter(|invite| !reminders.are_off() && ours.contains(&invite.id))
        .map(|invite| NewDelivery {
            invite_id: invite.id,
            kind: DeliveryKind::Reminder,
            to_email: invite.email.clone(),
        })
        .collect();
    tx.queue_deliveries(&mails).await?;
    Ok(due.len())
}
