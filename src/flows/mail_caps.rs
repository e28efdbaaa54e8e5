//! How many invite mails may be asked for on a day: by one inviter, and into one organization.

use std::collections::HashMap;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::invites::limits::MailCaps;
use crate::store::{CountScope, MailCount, StoreError, Tx};

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

/// Counts the mails that the caps leave room for, first come, first served; tells of each whether it may be sent.
/// Concurrent callers wait for one another, so no cap is ever passed.
///
/// # Errors
/// [`StoreError`].
pub async fn reserve_mails(tx: &mut Tx, wanted: &[WantedMail], caps: MailCaps) -> Result<Vec<bool>, StoreError> {
    let day = tx.now().date_naive();
    let cap_of = |scope| match scope {
        CountScope::Inviter => caps.inviter,
        CountScope::Organization => caps.organization,
    };
    let capped = |mail: &WantedMail| mail.subjects().filter(|(scope, _)| cap_of(*scope).is_some());
    let mut demand: HashMap<(CountScope, Uuid), i32> = HashMap::new();
    for subject in wanted.iter().flat_map(capped) {
        *demand.entry(subject).or_default() += 1;
    }
    let counts: Vec<MailCount> = demand.iter().map(|(&subject, &mails)| count(subject, mails)).collect();
    let mut room: HashMap<(CountScope, Uuid), i64> = HashMap::new();
    for total in tx.count_mails(day, &counts).await? {
        let subject = (total.scope, total.subject);
        let before = i64::from(total.mails) - i64::from(demand.get(&subject).copied().unwrap_or(0));
        let cap = cap_of(total.scope).map_or(i64::MAX, |cap| i64::from(cap.get()));
        room.insert(subject, cap - before);
    }
    let mut granted = Vec::with_capacity(wanted.len());
    for mail in wanted {
        let fits = capped(mail).all(|subject| room.get(&subject).is_some_and(|&room| room > 0));
        if fits {
            for subject in capped(mail) {
                room.entry(subject).and_modify(|room| *room -= 1);
                demand.entry(subject).and_modify(|mails| *mails -= 1);
            }
        }
        granted.push(fits);
    }
    // What was not granted is given back.
    demand.retain(|_, mails| *mails > 0);
    let unused: Vec<MailCount> = demand
        .into_iter()
        .map(|(subject, mails)| count(subject, -mails))
        .collect();
    tx.count_mails(day, &unused).await?;
    Ok(granted)
}

fn count((scope, subject): (CountScope, Uuid), mails: i32) -> MailCount {
    MailCount { scope, subject, mails }
}

/// When the counts begin anew: the next midnight in UTC.
#[must_use]
pub fn caps_reset_at(now: DateTime<Utc>) -> DateTime<Utc> {
    now.date_naive().and_time(NaiveTime::MIN).and_utc() + TimeDelta::days(1)
}
