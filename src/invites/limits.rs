//! How long, how much, how often: what holds for invites wherever they come from.

use std::num::NonZeroU32;

use chrono::{DateTime, TimeDelta, Utc};

use crate::names::named;

/// How long an invite lives where nobody says otherwise.
pub const DEFAULT_TTL: TimeDelta = TimeDelta::days(7);
/// The longest that an invite may live.
pub const MAX_TTL: TimeDelta = TimeDelta::days(30);
/// Characters of an inviter's message. A batch of the longest ones has to fit into one request.
pub const MAX_MESSAGE: u16 = 2_000;
/// Between two mails for one invite.
pub const COOL_DOWN: TimeDelta = TimeDelta::minutes(5);
/// Mails for one invite in 24 hours.
pub const DAILY_CAP: u16 = 10;
/// How long the same request again is taken for a repetition of the first: somebody who clicks twice asks once.
pub const REPETITION: TimeDelta = TimeDelta::minutes(1);

/// How many invite mails may be asked for on a day in UTC; `None` for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailCaps {
    /// By one inviter.
    pub inviter: Option<NonZeroU32>,
    /// Into one organization and its projects.
    pub organization: Option<NonZeroU32>,
    /// To one address, whoever invites it into whatever; reminders count, too.
    pub address: Option<NonZeroU32>,
}

impl Default for MailCaps {
    fn default() -> Self {
        Self {
            inviter: NonZeroU32::new(2_000),
            organization: NonZeroU32::new(10_000),
            address: NonZeroU32::new(20),
        }
    }
}

named! {
    /// Why an address was asked, or asked again, without a mail.
    MailHold("mail hold") {
        /// A mail for this invite was queued less than five minutes before; its link goes on working.
        CoolDown = "cool_down",
        /// Ten mails for this invite were queued within a day; the last one's link goes on working.
        DailyCap = "daily_cap",
        /// The address had its `MAIL_CAP_ADDRESS` mails that day, from all organizations together.
        AddressCap = "address_cap",
    }
}

/// The mails of one invite that were sent, or are to be, in the last 24 hours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecentMails {
    /// How many.
    pub count: i64,
    /// When the newest was queued.
    pub newest: Option<DateTime<Utc>>,
}

impl RecentMails {
    /// Since when mails count.
    #[must_use]
    pub fn since(now: DateTime<Utc>) -> DateTime<Utc> {
        now - TimeDelta::hours(24)
    }

    /// Why no other mail may go out now and from when on one may, if it is so.
    #[must_use]
    pub fn hold(self, now: DateTime<Utc>) -> Option<(MailHold, DateTime<Utc>)> {
        let newest = self.newest?;
        if newest + COOL_DOWN > now {
            Some((MailHold::CoolDown, newest + COOL_DOWN))
        } else if self.count >= i64::from(DAILY_CAP) {
            Some((MailHold::DailyCap, newest + TimeDelta::hours(24)))
        } else {
            None
        }
    }
}
