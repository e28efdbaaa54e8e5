//! The match: which of the invites waiting for a person's addresses let them in, and which ask first.

use std::str::FromStr;

use chrono::{DateTime, SubsecRound as _, Utc};
use uuid::Uuid;

use super::invite::{Acceptance, Invite};

/// What happens to invites whose own `acceptance` is `default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoAccept {
    /// Let in whom Clerk created after the invite was made or refreshed; ask everybody else.
    #[default]
    NewUsers,
    /// Let everybody in.
    Always,
    /// Ask everybody.
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
    /// Clerk told of the person: new, changed, or an address verified.
    Profile,
    /// The person signed in: what they had dismissed is shown again.
    SignIn,
}

/// What the match needs to know of a person, beside their verified addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// Their `admins.id`.
    pub admin_id: Uuid,
    /// When Clerk created them.
    pub clerk_created_at: DateTime<Utc>,
    /// Banned, locked or deleted: nothing is for them.
    pub blocked: bool,
}

/// What becomes of one invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Let the person in.
    Accept,
    /// Show it in the banner.
    Flag,
    /// Leave it as it is.
    Leave,
}

/// Decides over one invite whose address is a **verified** one of the person's (the caller's query sees to that).
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
    let already_theirs = invite.flagged_for == Some(person.admin_id);
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
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::invites::email::EmailAddress;
    use crate::invites::{Kind, Status};

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hour)
    }

    const ADA: Uuid = Uuid::from_u128(1);
    const BOB: Uuid = Uuid::from_u128(2);

    /// Made at hour 10, valid until hour 100.
    fn invite() -> Invite {
        let email = EmailAddress::parse("ada@example.com").unwrap();
        Invite {
            id: Uuid::from_u128(9),
            kind: Kind::Organization,
            organization_id: Uuid::from_u128(8),
            project_id: None,
            email: email.as_str().to_owned(),
            email_key: email.key().clone(),
            role: "member".to_owned(),
            status: Status::Pending,
            acceptance: Acceptance::Default,
            invited_by: None,
            accepted_by: None,
            locale: None,
            message: None,
            token_version: 1,
            invited_at: at(10),
            expires_at: at(100),
            flagged_at: None,
            flagged_for: None,
            dismissed_at: None,
            accepted_at: None,
            declined_at: None,
            revoked_at: None,
            expired_at: None,
            created_at: at(10),
            updated_at: at(10),
        }
    }

    fn person(created_hour: i64) -> Person {
        Person {
            admin_id: ADA,
            clerk_created_at: at(created_hour),
            blocked: false,
        }
    }

    #[test]
    fn acceptance_and_policy_decide_between_letting_in_and_asking() {
        use Acceptance::{Ask, Auto, Default};
        use AutoAccept::{Always, Never, NewUsers};
        use Decision::{Accept, Flag};
        for (acceptance, policy, created_hour, expected) in [
            (Auto, NewUsers, 5, Accept),
            (Auto, Never, 5, Accept),
            (Ask, Always, 11, Flag),
            (Ask, NewUsers, 11, Flag),
            (Default, Always, 5, Accept),
            (Default, Never, 11, Flag),
            (Default, NewUsers, 9, Flag),
            (Default, NewUsers, 10, Accept),
            (Default, NewUsers, 11, Accept),
        ] {
            let invite = Invite { acceptance, ..invite() };
            for trigger in [MatchTrigger::Profile, MatchTrigger::SignIn] {
                assert_eq!(
                    decide(&person(created_hour), &invite, policy, trigger, at(20)),
                    expected,
                    "{acceptance:?} {policy:?} created at {created_hour} on {trigger:?}"
                );
            }
        }
    }

    #[test]
    fn a_refreshed_invite_counts_from_its_refresh() {
        let refreshed = Invite {
            invited_at: at(15),
            ..invite()
        };
        let decision = decide(
            &person(12),
            &refreshed,
            AutoAccept::NewUsers,
            MatchTrigger::Profile,
            at(20),
        );
        assert_eq!(decision, Decision::Flag);
    }

    #[test]
    fn somebody_created_in_the_millisecond_of_the_invite_is_new() {
        let invited_at = at(10) + TimeDelta::microseconds(700);
        let invite = Invite { invited_at, ..invite() };
        let decision = decide(
            &person(10),
            &invite,
            AutoAccept::NewUsers,
            MatchTrigger::Profile,
            at(20),
        );
        assert_eq!(decision, Decision::Accept);
    }

    #[test]
    fn nothing_is_for_the_blocked_and_nothing_comes_of_what_is_not_open() {
        let blocked = Person {
            blocked: true,
            ..person(11)
        };
        let auto = Invite {
            acceptance: Acceptance::Auto,
            ..invite()
        };
        assert_eq!(
            decide(&blocked, &auto, AutoAccept::Always, MatchTrigger::SignIn, at(20)),
            Decision::Leave
        );
        for (status, hour, expected) in [
            (Status::Pending, 99, Decision::Accept),
            (Status::Pending, 100, Decision::Leave),
            (Status::Pending, 101, Decision::Leave),
            (Status::Accepted, 20, Decision::Leave),
            (Status::Declined, 20, Decision::Leave),
            (Status::Revoked, 20, Decision::Leave),
            (Status::Expired, 20, Decision::Leave),
        ] {
            let invite = Invite { status, ..auto.clone() };
            assert_eq!(
                decide(&person(11), &invite, AutoAccept::Always, MatchTrigger::SignIn, at(hour)),
                expected,
                "{status:?} at {hour}"
            );
        }
    }

    #[test]
    fn a_dismissed_banner_comes_back_with_the_next_sign_in_only() {
        let flagged = Invite {
            flagged_at: Some(at(12)),
            flagged_for: Some(ADA),
            ..invite()
        };
        let dismissed = Invite {
            dismissed_at: Some(at(13)),
            flagged_at: None,
            ..flagged.clone()
        };
        let taken_down = Invite {
            flagged_at: None,
            ..flagged.clone()
        };
        let anothers = Invite {
            flagged_for: Some(BOB),
            ..dismissed.clone()
        };
        for (what, invite, on_profile, on_sign_in) in [
            ("shown", &flagged, Decision::Leave, Decision::Leave),
            ("dismissed", &dismissed, Decision::Leave, Decision::Flag),
            ("taken down", &taken_down, Decision::Flag, Decision::Flag),
            ("dismissed by another person", &anothers, Decision::Flag, Decision::Flag),
        ] {
            let run = |trigger| decide(&person(5), invite, AutoAccept::NewUsers, trigger, at(20));
            assert_eq!(run(MatchTrigger::Profile), on_profile, "{what}, profile");
            assert_eq!(run(MatchTrigger::SignIn), on_sign_in, "{what}, sign-in");
        }
    }
}
