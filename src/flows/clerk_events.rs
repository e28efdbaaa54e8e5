//! Applies events from Clerk: a batch of events in one transaction, each with its own outcome.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::match_people::{MatchRequest, Matched, match_people};
use crate::invites::email::EmailAddress;
use crate::invites::matching::{AutoAccept, MatchTrigger};
use crate::invites::roles::Roles;
use crate::store::{Address, Event, Finished, Person, Profile, SessionStart, StoreError, Tx};
use usher_clerk::{EventKind, Session, User};

/// An event from the inbox, with the user from Clerk's Backend API if it was asked.
pub struct ReceivedEvent {
    pub event: Event,
    /// The user, if the event itself has none.
    pub user: Option<User>,
}

/// The outcome of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its effect is in this transaction.
    Done(&'static str),
    /// The event's user is unknown. Nothing was changed.
    UserUnknown(String),
    /// Its payload can't be read. It stays in the inbox with this error.
    Unreadable(String),
    /// A target of one of its invites is locked. It is applied again later; applying it twice changes nothing.
    Locked,
}

enum Change {
    Seen(Box<Profile>),
    SignedIn {
        session: Session,
        profile: Option<Box<Profile>>,
    },
    SignedOut(Session),
    Deleted(String),
    Nothing(&'static str),
}

impl Change {
    /// The person that the event is about: two events about one person go into different rounds.
    fn person(&self) -> Option<&str> {
        match self {
            Self::Seen(profile) => Some(&profile.clerk_user_id),
            Self::SignedIn { session, .. } | Self::SignedOut(session) => Some(&session.clerk_user_id),
            Self::Deleted(clerk_user_id) => Some(clerk_user_id),
            Self::Nothing(_) => None,
        }
    }
}

/// Applies events, oldest first, and stores their outcomes in the inbox. With `skip_locked`, invites whose target is
/// locked are left out instead of waited for.
///
/// # Errors
/// [`StoreError`]; then the transaction must not be committed.
pub async fn apply_events(
    tx: &mut Tx,
    received: Vec<ReceivedEvent>,
    policy: AutoAccept,
    roles: &Roles,
    skip_locked: bool,
) -> Result<HashMap<String, Outcome>, StoreError> {
    let mut outcomes = HashMap::with_capacity(received.len());
    let mut changes = Vec::with_capacity(received.len());
    for ReceivedEvent { event, user } in received {
        match read(&event, user) {
            Ok(change) => changes.push((event.svix_id, change)),
            Err(error) => {
                outcomes.insert(event.svix_id, Outcome::Unreadable(error));
            }
        }
    }
    while !changes.is_empty() {
        let mut people = HashSet::new();
        let (round, later): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|(_, change)| change.person().is_none_or(|person| people.insert(person.to_owned())));
        apply_round(tx, &round, policy, roles, skip_locked, &mut outcomes).await?;
        changes = later;
    }
    tx.finish_events(&finished(&outcomes)).await?;
    Ok(outcomes)
}

fn read(event: &Event, user: Option<User>) -> Result<Change, String> {
    let kind = EventKind::from_type(&event.event_type).ok_or("a type that this version does not act on")?;
    let payload = event.payload.as_deref().ok_or("its payload has been cleared")?;
    Ok(
        match usher_clerk::Event::parse(kind, payload).map_err(|error| error.to_string())? {
            usher_clerk::Event::UserSeen(user) => Change::Seen(Box::new(profile_of(user))),
            usher_clerk::Event::UserDeleted {
                clerk_user_id: Some(id),
            } => Change::Deleted(id),
            usher_clerk::Event::UserDeleted { clerk_user_id: None } => Change::Nothing("deletion without an id"),
            usher_clerk::Event::SessionPending { .. } => Change::Nothing("session pending"),
            usher_clerk::Event::SessionStarted { session, .. } if session.impersonated => {
                Change::Nothing("impersonated session")
            }
            usher_clerk::Event::SessionStarted { session, user: told } => {
                let profile = told.or(user).map(profile_of).map(Box::new);
                Change::SignedIn { session, profile }
            }
            usher_clerk::Event::SessionEnded { session } => Change::SignedOut(session),
        },
    )
}

/// Converts Clerk's user for the store; leaves out addresses that usher can't parse.
#[must_use]
pub fn profile_of(user: User) -> Profile {
    let addresses = user
        .addresses
        .into_iter()
        .filter_map(|address| {
            let parsed = EmailAddress::parse(&address.email).ok()?;
            Some(Address {
                email: parsed.as_str().to_owned(),
                key: parsed.key().clone(),
                verified: address.verified,
                primary: address.primary,
            })
        })
        .collect();
    Profile {
        clerk_user_id: user.clerk_user_id,
        addresses,
        first_name: user.first_name,
        last_name: user.last_name,
        image_url: user.image_url,
        locale: user.locale,
        banned: user.banned,
        locked: user.locked,
        created_at: user.created_at,
        updated_at: user.updated_at,
    }
}

/// Applies changes of different people.
async fn apply_round(
    tx: &mut Tx,
    round: &[(String, Change)],
    policy: AutoAccept,
    roles: &Roles,
    skip_locked: bool,
    outcomes: &mut HashMap<String, Outcome>,
) -> Result<(), StoreError> {
    let people = learn_people(tx, round, roles).await?;
    for (svix_id, change) in round {
        if let Some(person) = change.person().and_then(|id| people.get(id)?.for_matching()) {
            tx.with_correlation_id(&person, svix_id);
        }
    }
    let active = note_sign_ins(tx, round, &people).await?;
    // Before the match: invites of a deleted inviter can't be accepted.
    delete_people(tx, round, roles).await?;
    let requests = requests(round, &people, &active);
    let Matched { accepted, locked } = match_people(tx, &requests, policy, roles, skip_locked).await?;
    note_sign_outs(tx, round, &people).await?;

    for (svix_id, change) in round {
        let person = change.person().and_then(|id| people.get(id));
        let was_accepted = person.is_some_and(|person| accepted.contains(&person.id));
        if person.is_some_and(|person| locked.contains(&person.id)) {
            outcomes.insert(svix_id.clone(), Outcome::Locked);
            continue;
        }
        outcomes.insert(svix_id.clone(), outcome(change, person, was_accepted, &active));
    }
    Ok(())
}

/// Stores the profiles and looks up all other people of the changes. An organization that loses its last owner by a ban is
/// told of: nothing can keep Clerk from banning a person.
async fn learn_people(
    tx: &mut Tx,
    round: &[(String, Change)],
    roles: &Roles,
) -> Result<HashMap<String, Person>, StoreError> {
    let mut profiles: Vec<&Profile> = Vec::new();
    let mut named: Vec<&str> = Vec::new();
    for (_, change) in round {
        match change {
            Change::Seen(profile)
            | Change::SignedIn {
                profile: Some(profile), ..
            } => profiles.push(profile),
            Change::SignedIn { session, profile: None } | Change::SignedOut(session) => {
                named.push(&session.clerk_user_id);
            }
            Change::Deleted(_) | Change::Nothing(_) => {}
        }
    }
    let banned = profiles.iter().filter(|profile| profile.banned);
    let banned: Vec<&str> = banned.map(|profile| profile.clerk_user_id.as_str()).collect();
    let highest = roles.organization.highest();
    let owned = tx.organizations_held_by(&banned, highest).await?;
    let mut people = tx.save_people(&profiles).await?;
    people.extend(tx.lock_people(&named).await?);
    // Of two owners who are banned at once, one is the last.
    tx.lock_members_of(&owned).await?;
    tx.tell_of_ownerless(&owned, highest).await?;
    Ok(people
        .into_iter()
        .map(|person| (person.clerk_user_id.clone(), person))
        .collect())
}

/// Returns the active sessions: a session's end may have been received before its start.
async fn note_sign_ins(
    tx: &mut Tx,
    round: &[(String, Change)],
    people: &HashMap<String, Person>,
) -> Result<HashSet<String>, StoreError> {
    let starts: Vec<SessionStart> = round
        .iter()
        .filter_map(|(_, change)| match change {
            Change::SignedIn { session, .. } => Some(SessionStart {
                clerk_session_id: session.clerk_session_id.clone(),
                person_id: live(people.get(&session.clerk_user_id)?)?,
                started_at: session.created_at,
            }),
            _ => None,
        })
        .collect();
    tx.start_sessions(&starts).await
}

fn live(person: &Person) -> Option<Uuid> {
    person.deleted_at.is_none().then_some(person.id)
}

fn requests(
    round: &[(String, Change)],
    people: &HashMap<String, Person>,
    active: &HashSet<String>,
) -> Vec<MatchRequest> {
    let request = |(_, change): &(String, Change)| {
        let trigger = match change {
            Change::Seen(_) => MatchTrigger::Profile,
            Change::SignedIn { session, .. } if active.contains(&session.clerk_session_id) => MatchTrigger::SignIn,
            _ => return None,
        };
        let person = people.get(change.person()?)?.for_matching()?;
        Some(MatchRequest { person, trigger })
    };
    round.iter().filter_map(request).collect()
}

async fn note_sign_outs(
    tx: &mut Tx,
    round: &[(String, Change)],
    people: &HashMap<String, Person>,
) -> Result<(), StoreError> {
    let mut ends = Vec::new();
    let mut signed_out = Vec::new();
    for (_, change) in round {
        if let Change::SignedOut(session) = change {
            let person_id = people.get(&session.clerk_user_id).map(|person| person.id);
            ends.push((session.clerk_session_id.as_str(), person_id));
            signed_out.extend(person_id);
        }
    }
    tx.end_sessions(&ends).await?;
    tx.lower_flags_of_the_signed_out(&signed_out).await
}

/// An organization that loses its last owner by this is told of: nothing can keep Clerk from deleting a person.
async fn delete_people(tx: &mut Tx, round: &[(String, Change)], roles: &Roles) -> Result<(), StoreError> {
    let deleted: Vec<&str> = round
        .iter()
        .filter_map(|(_, change)| match change {
            Change::Deleted(clerk_user_id) => Some(clerk_user_id.as_str()),
            _ => None,
        })
        .collect();
    let highest = roles.organization.highest();
    tx.lock_people(&deleted).await?;
    let owned = tx.organizations_held_by(&deleted, highest).await?;
    // Of two owners who are deleted at once, one is the last.
    tx.lock_members_of(&owned).await?;
    tx.delete_people(&deleted).await?;
    tx.tell_of_ownerless(&owned, highest).await
}

fn outcome(change: &Change, person: Option<&Person>, was_accepted: bool, active: &HashSet<String>) -> Outcome {
    match change {
        Change::SignedIn { session, profile: None } if person.is_none() => {
            Outcome::UserUnknown(session.clerk_user_id.clone())
        }
        Change::Seen(_) | Change::SignedIn { .. } if person.is_some_and(|person| person.deleted_at.is_some()) => {
            Outcome::Done("user deleted")
        }
        Change::SignedIn { session, .. } if !active.contains(&session.clerk_session_id) => {
            Outcome::Done("session already over")
        }
        Change::Seen(_) | Change::SignedIn { .. } if was_accepted => Outcome::Done("accepted"),
        Change::Seen(_) | Change::SignedIn { .. } => Outcome::Done("matched"),
        Change::SignedOut(_) => Outcome::Done("signed out"),
        Change::Deleted(_) => Outcome::Done("deleted"),
        Change::Nothing(why) => Outcome::Done(why),
    }
}

/// Events of unknown users stay open: the job decides whether to ask Clerk, wait or ignore them.
fn finished(outcomes: &HashMap<String, Outcome>) -> Vec<Finished> {
    outcomes
        .iter()
        .filter_map(|(svix_id, outcome)| {
            let outcome = match outcome {
                Outcome::Done(what) => Ok(*what),
                Outcome::Unreadable(error) => Err(error.clone()),
                Outcome::UserUnknown(_) | Outcome::Locked => return None,
            };
            Some(Finished {
                svix_id: svix_id.clone(),
                outcome,
            })
        })
        .collect()
}
