use chrono::TimeDelta;

use super::*;
use crate::invites::email::EmailAddress;
use crate::invites::{InviteDetails, Status, TargetKind};

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
        kind: TargetKind::Organization,
        organization_id: Uuid::from_u128(8),
        project_id: None,
        email: email.as_str().to_owned(),
        email_key: email.key().clone(),
        role: "member".to_owned(),
        status: Status::Pending,
        acceptance: Acceptance::Default,
        invited_by: None,
        accepted_by: None,
        accepted_by_clerk_id: None,
        details: InviteDetails::default(),
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
        id: ADA,
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
