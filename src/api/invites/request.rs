//! How large a request to invite may be, and the problem that a refused one gets.

use chrono::{DateTime, Utc};

use super::too_many_mails;
use crate::flows::Refusal;
use crate::invites::limits::MAX_MESSAGE;
use crate::problem::{Code, Problem};

/// The most bytes of one character in JSON: `\ud83d\ude00`.
const MAX_CHARACTER: usize = 12;
/// Characters of everything in an invite except the message, with the names of its fields and spaces.
const BESIDE_THE_MESSAGE: usize = 700;
/// Bytes of one invite with every character escaped.
pub(in crate::api) const MAX_INVITE: usize = (MAX_MESSAGE as usize + BESIDE_THE_MESSAGE) * MAX_CHARACTER;

/// The problem that the caller gets for a refusal.
pub(super) fn refused(refusal: Refusal, now: DateTime<Utc>) -> Problem {
    match refusal {
        Refusal::Invalid(errors) => Problem::invalid(errors),
        Refusal::RoleAboveInviter => Code::RoleAboveInviter.into(),
        Refusal::InviterBlocked => Code::InviterBlocked.into(),
        Refusal::TooManyMails => too_many_mails(now),
        Refusal::AlreadyMember => Code::AlreadyMember.into(),
    }
}
