//! The daily caps of invite mails: per inviter, per organization, per address.

use std::collections::HashMap;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::invites::limits::MailCaps;
use crate::store::{CountScope, MailDemand, StoreError, Tx};

/// A mail that should be sent.
#[derive(Debug, Clone, Copy)]
pub struct WantedMail {
    pub inviter: Option<Uuid>,
    /// `None` for a reminder, which counts only for its address.
    pub organization: Option<Uuid>,
    /// The address's [`EmailKey::digest`].
    ///
    /// [`EmailKey::digest`]: crate::invites::email::EmailKey::digest
    pub address: Uuid,
}

/// Whether the caps have room for a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservation {
    Granted,
    /// The address's cap is reached.
    AddressCap,
    /// The inviter's or the organization's cap is reached.
    DailyCap,
}

type Subject = (CountScope, Uuid);

impl WantedMail {
    fn asked_by(&self) -> impl Iterator<Item = Subject> {
        let inviter = self.inviter.map(|id| (CountScope::Inviter, id));
        let organization = self.organization.map(|id| (CountScope::Organization, id));
        inviter.into_iter().chain(organization)
    }

    fn sent_to(&self) -> Subject {
        (CountScope::Address, self.address)
    }

    fn subjects(&self) -> impl Iterator<Item = Subject> {
        self.asked_by().chain([self.sent_to()])
    }
}

/// Checks for each mail whether the caps have room for it now, in order, after the mails that this transaction has
/// already `sent`. The mails that are sent must be counted by [`count_mails`] at the end of the transaction.
pub async fn room_for_mails(
    tx: &mut Tx,
    wanted: &[WantedMail],
    sent: &[WantedMail],
    caps: MailCaps,
) -> Result<Vec<Reservation>, StoreError> {
    let demand = demand(wanted, caps);
    let mut room: HashMap<Subject, i32> = demand
        .iter()
        .map(|demand| ((demand.scope, demand.subject), demand.cap))
        .collect();
    for count in tx.mail_counts(tx.now().date_naive(), &demand).await? {
        if let Some(room) = room.get_mut(&(count.scope, count.subject)) {
            *room -= count.mails;
        }
    }
    let take = |room: &mut HashMap<Subject, i32>, mail: &WantedMail| {
        for subject in mail.subjects() {
            room.entry(subject).and_modify(|room| *room -= 1);
        }
    };
    for mail in sent {
        take(&mut room, mail);
    }
    let mut reservations = Vec::with_capacity(wanted.len());
    for mail in wanted {
        let has_room = |subject: &Subject| room.get(subject).is_none_or(|&room| room > 0);
        let reservation = if !has_room(&mail.sent_to()) {
            Reservation::AddressCap
        } else if !mail.asked_by().all(|subject| has_room(&subject)) {
            Reservation::DailyCap
        } else {
            take(&mut room, mail);
            Reservation::Granted
        };
        reservations.push(reservation);
    }
    Ok(reservations)
}

/// Counts mails. A cap is never exceeded: if other transactions used the room in the meantime, this transaction runs
/// again.
pub async fn count_mails(tx: &mut Tx, sent: &[WantedMail], caps: MailCaps) -> Result<(), StoreError> {
    tx.count_mails(tx.now().date_naive(), &demand(sent, caps)).await
}

/// The number of mails per subject that has a cap.
fn demand(mails: &[WantedMail], caps: MailCaps) -> Vec<MailDemand> {
    let cap_of = |scope| match scope {
        CountScope::Inviter => caps.inviter,
        CountScope::Organization => caps.organization,
        CountScope::Address => caps.address,
    };
    let mut demand: HashMap<Subject, MailDemand> = HashMap::new();
    for (scope, subject) in mails.iter().flat_map(WantedMail::subjects) {
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

/// When the counts start again: the next midnight in UTC.
#[must_use]
pub fn caps_reset_at(now: DateTime<Utc>) -> DateTime<Utc> {
    now.date_naive().and_time(NaiveTime::MIN).and_utc() + TimeDelta::days(1)
}
