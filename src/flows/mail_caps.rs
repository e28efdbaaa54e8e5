//! How many invite mails may be asked for on a day: by one inviter, and into one organization.

use std::collections::HashMap;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::invites::limits::MailCaps;
use crate::store::{CountScope, MailDemand, StoreError, Tx};

/// A mail that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct WantedMail {
    /// By whom.
    pub inviter: Option<Uuid>,
    /// Into which organization.
    pub organization: Uuid,
}

impl WantedMail {
    fn subjects(self) -> impl Iterator<Item = (CountScope, Uuid)> {
        let inviter = self.inviter.map(|id| (CountScope::Inviter, id));
        inviter
            .into_iter()
            .chain([(CountScope::Organization, self.organization)])
    }
}

/// Of each mail whether the caps leave room for it by now, first come, first served. What is then sent is to be counted
/// by [`count_mails`] at the end of the transaction.
///
/// # Errors
/// [`StoreError`].
pub async fn room_for_mails(tx: &mut Tx, wanted: &[WantedMail], caps: MailCaps) -> Result<Vec<bool>, StoreError> {
    let demand = demand(wanted, caps);
    let mut room: HashMap<(CountScope, Uuid), i32> = demand
        .iter()
        .map(|demand| ((demand.scope, demand.subject), demand.cap))
        .collect();
    for count in tx.mail_counts(tx.now().date_naive(), &demand).await? {
        if let Some(room) = room.get_mut(&(count.scope, count.subject)) {
            *room -= count.mails;
        }
    }
    let mut granted = Vec::with_capacity(wanted.len());
    for mail in wanted {
        let subjects: Vec<_> = mail.subjects().filter(|subject| room.contains_key(subject)).collect();
        let fits = subjects.iter().all(|subject| room[subject] > 0);
        if fits {
            for subject in subjects {
                room.entry(subject).and_modify(|room| *room -= 1);
            }
        }
        granted.push(fits);
    }
    Ok(granted)
}

/// Counts mails. No cap is ever passed: where others have used up the room meanwhile, the transaction is done again.
///
/// # Errors
/// [`StoreError`].
pub async fn count_mails(tx: &mut Tx, sent: &[WantedMail], caps: MailCaps) -> Result<(), StoreError> {
    tx.count_mails(tx.now().date_naive(), &demand(sent, caps)).await
}

/// How many mails there are of each subject that has a cap.
fn demand(mails: &[WantedMail], caps: MailCaps) -> Vec<MailDemand> {
    let cap_of = |scope| match scope {
        CountScope::Inviter => caps.inviter,
        CountScope::Organization => caps.organization,
    };
    let mut demand: HashMap<(CountScope, Uuid), MailDemand> = HashMap::new();
    for (scope, subject) in mails.iter().copied().flat_map(WantedMail::subjects) {
        let Some(cap) = cap_of(scope) else { continue };
        let cap = i32::try_from(cap.get()).unwrap_or(i32::MAX);
        let entry = demand.entry((scope, subject)).or_insert(MailDemand {
            scope,
            subject,
            mails: 0,
            cap,
        });
        entry.mails += 1;
    }
    demand.into_values().collect()
}

/// When the counts begin anew: the next midnight in UTC.
#[must_use]
pub fn caps_reset_at(now: DateTime<Utc>) -> DateTime<Utc> {
    now.date_naive().and_time(NaiveTime::MIN).and_utc() + TimeDelta::days(1)
}
