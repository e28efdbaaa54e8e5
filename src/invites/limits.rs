//! How long, how much, how often: what holds for invites wherever they come from.

use std::num::NonZeroU32;

use chrono::TimeDelta;

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

/// How many invite mails may be asked for on a day in UTC; `None` for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailCaps {
    /// By one inviter.
    pub inviter: Option<NonZeroU32>,
    /// Into one organization and its projects.
    pub organization: Option<NonZeroU32>,
}

impl Default for MailCaps {
    fn default() -> Self {
        Self {
            inviter: NonZeroU32::new(2_000),
            organization: NonZeroU32::new(10_000),
        }
    }
}
