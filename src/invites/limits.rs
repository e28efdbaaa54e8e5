//! How long, how much, how often: what holds for invites wherever they come from.

use chrono::TimeDelta;

/// How long an invite lives where nobody says otherwise.
pub const DEFAULT_TTL: TimeDelta = TimeDelta::days(7);
/// The longest that an invite may live.
pub const MAX_TTL: TimeDelta = TimeDelta::days(30);
/// Characters of an inviter's message.
pub const MAX_MESSAGE: u16 = 10_000;
/// Between two mails for one invite.
pub const COOL_DOWN: TimeDelta = TimeDelta::minutes(5);
/// Mails for one invite in 24 hours.
pub const DAILY_CAP: u16 = 10;
