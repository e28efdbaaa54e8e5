//! Limits on invites, wherever they come from: how long, how large, how often.

use std::num::NonZeroU32;

use chrono::{DateTime, TimeDelta, Utc};

use crate::names::named;

/// How long an invite is valid by default.
pub const DEFAULT_TTL: TimeDelta = TimeDelta::days(7);
pub const MAX_TTL: TimeDelta = TimeDelta::days(30);
/// Characters of an inviter's message. A batch of the longest ones must fit into one request.
pub const MAX_MESSAGE: u16 = 2_000;
/// The minimum time between two mails for one invite.
pub const COOL_DOWN: TimeDelta = TimeDelta::minutes(5);
/// Mails for one invite in 24 hours.
pub const DAILY_CAP: u16 = 10;
/// How long an equal request counts as a repetition of the first one, such as a double click.
pub const REPETITION: TimeDelta = TimeDelta::minutes(1);

/// The maximum number of invite mails per day in UTC; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailCaps {
    /// Per inviter.
    pub inviter: Option<NonZeroU32>,
    /// For one organization and its projects.
    pub organization: Option<NonZeroU32>,
    /// To one address, from all inviters and for all targets; reminders count, too.
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
    /// Why an address was invited without a mail.
    MailHold("mail hold") {
        /// A mail for this invite was queued less than five minutes before; its link stays valid.
        CoolDown = "cool_down",
        /// Ten mails for this invite were queued within a day; the last one's link stays valid.
        DailyCap = "daily_cap",
        /// The address got its `MAIL_CAP_ADDRESS` mails that day, from all organizations together.
        AddressCap = "address_cap",
    }
}

/// The mails of one invite in the last 24 hours that were sent or are queued.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecentMails {
    pub count: i64,
    /// When the newest was queued.
    pub newest: Option<DateTime<Utc>>,
}

impl RecentMails {
    /// The start of those 24 hours.
    #[must_use]
    pub fn since(now: DateTime<Utc>) -> DateTime<Utc> {
        now - TimeDelta::hours(24)
    }

    /// Why no other mail may be sent now, and when one may be sent, if so.
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
