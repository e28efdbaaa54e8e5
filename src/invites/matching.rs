//! The match: which of a person's candidate invites are accepted automatically, and which are shown in the banner.

use std::str::FromStr;

use chrono::{DateTime, SubsecRound as _, Utc};
use uuid::Uuid;

use super::invite::{Acceptance, Invite};

/// What happens to invites whose own `acceptance` is `default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoAccept {
    /// Accept for people that Clerk created after the invite was created or renewed; ask all others.
    #[default]
    NewUsers,
    /// Accept for all people.
    Always,
    /// Ask all people.
    Never,
}

impl AutoAccept {
    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewUsers => "new-users",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl FromStr for AutoAccept {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "new-users" => Ok(Self::NewUsers),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("must be new-users, always or never".to_owned()),
        }
    }
}

/// Why the match runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchTrigger {
    /// Clerk reported a new or changed person, or a verified address.
    Profile,
    /// The person signed in: dismissed invites are shown again.
    SignIn,
}

/// What the match needs to know about a person, besides their verified addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// usher's id of the person.
    pub id: Uuid,
    /// The `admins.id` that they have, or get as a member.
    pub admin_id: Uuid,
    pub clerk_created_at: DateTime<Utc>,
    /// Banned, locked or deleted: no invite is accepted or shown.
    pub blocked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Accept the invite.
    Accept,
    /// Show it in the banner.
    Flag,
    /// Change nothing.
    Leave,
}

/// Decides about one invite whose address is a **verified** one of the person's (the caller's query ensures that).
#[must_use]
pub fn decide(
    person: &Person,
    invite: &Invite,
    policy: AutoAccept,
    trigger: MatchTrigger,
    now: DateTime<Utc>,
) -> Decision {
    if person.blocked || !invite.is_open_at(now) {
        return Decision::Leave;
    }
    if lets_in(person, invite, policy) {
        return Decision::Accept;
    }
    let already_theirs = invite.flagged_for == Some(person.id);
    let shown = already_theirs && invite.flagged_at.is_some() && invite.dismissed_at.is_none();
    let dismissed = already_theirs && invite.dismissed_at.is_some();
    match trigger {
        _ if shown => Decision::Leave,
        MatchTrigger::Profile if dismissed => Decision::Leave,
        MatchTrigger::Profile | MatchTrigger::SignIn => Decision::Flag,
    }
}

fn lets_in(person: &Person, invite: &Invite, policy: AutoAccept) -> bool {
    match invite.acceptance {
        Acceptance::Auto => true,
        Acceptance::Ask => false,
        Acceptance::Default => match policy {
            AutoAccept::Always => true,
            AutoAccept::Never => false,
            // Clerk's times are whole milliseconds.
            AutoAccept::NewUsers => person.clerk_created_at >= invite.invited_at.trunc_subsecs(3),
        },
    }
}

#[cfg(test)]
mod tests;
