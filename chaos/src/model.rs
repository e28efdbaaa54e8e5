//! What the harness knows to be true: whom it asked, who signed up, and what usher said it had taken.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use usher::invites::email::EmailAddress;
use usher_testkit::fake_clerk::{FakeUser, deleted_user, event, session};
use uuid::Uuid;

/// The first so many people found organizations, invite into them, and stay.
pub const FOUNDERS: usize = 3;

/// Somebody in Clerk.
pub struct Person {
    /// As Clerk last told of them.
    pub user: FakeUser,
    /// Every address that was ever verified.
    pub ever_verified: HashSet<String>,
    /// Gone for good.
    pub is_deleted: bool,
    /// Part of a probe: the load leaves them alone, or a deletion of its own would look like work that was not done.
    pub is_probe: bool,
    /// Sessions, and whether their end was told.
    pub sessions: Vec<(String, bool)>,
}

/// An event that Clerk tells, again and again until it is taken.
pub struct Told {
    /// The message id.
    pub svix_id: String,
    /// What is signed.
    pub body: String,
    /// usher said that it has it.
    pub is_acknowledged: bool,
}

/// An invite that usher told the id of.
pub struct Asked {
    /// Where it leads.
    pub target: Uuid,
    /// Whom it is for.
    pub key: String,
    /// What usher said became of it, if that is final.
    pub is_final: Option<&'static str>,
}

/// All of it.
#[derive(Default)]
pub struct Model {
    /// By number.
    pub people: Vec<Person>,
    /// In the order of their happening.
    pub events: Vec<Told>,
    /// Every target and address for which an invite was ever sent off, answered or not.
    pub sent_off: HashSet<(Uuid, String)>,
    /// By id.
    pub invites: HashMap<Uuid, Asked>,
    /// Addresses that were asked and belong to nobody yet.
    pub unclaimed: Vec<String>,
    /// Who has an address.
    pub owners: HashMap<String, usize>,
    addresses: usize,
    sessions: usize,
}

/// What addresses are compared by.
pub fn key(email: &str) -> String {
    EmailAddress::parse(email).map_or_else(|_| email.to_owned(), |email| email.key().as_str().to_owned())
}

impl Model {
    /// An address that was never used.
    pub fn new_address(&mut self) -> String {
        self.addresses += 1;
        format!("person{}@chaos.example.com", self.addresses)
    }

    /// An address for an invite: now a new one, which somebody may sign up with later, now somebody's.
    pub fn address_to_ask(&mut self, is_new: bool, chance: usize) -> String {
        let others = self.people.get(FOUNDERS..).unwrap_or_default();
        if is_new || others.is_empty() {
            let address = self.new_address();
            self.unclaimed.push(address.clone());
            return address;
        }
        let person = &others[chance % others.len()];
        person
            .user
            .emails
            .first()
            .map_or_else(String::new, |(email, _)| email.clone())
    }

    /// Somebody signs up, with the address at `chance` among those that were asked, if there is one.
    pub fn sign_up(&mut self, chance: usize, is_verified: bool, now: DateTime<Utc>) -> usize {
        let address = if self.unclaimed.is_empty() {
            self.new_address()
        } else {
            let position = chance % self.unclaimed.len();
            self.unclaimed.swap_remove(position)
        };
        let number = self.people.len();
        let mut user = FakeUser::new(format!("user_{number}"), address, now);
        user.emails[0].1 = is_verified;
        let mut person = Person {
            user,
            ever_verified: HashSet::new(),
            is_deleted: false,
            is_probe: false,
            sessions: Vec::new(),
        };
        person.note_verified();
        self.owners.insert(key(&person.user.emails[0].0), number);
        self.people.push(person);
        number
    }

    /// Something about somebody changes: an address is verified, added or taken away.
    pub fn change(&mut self, number: usize, chance: usize, now: DateTime<Utc>) {
        let added = (chance % 3 == 1).then(|| {
            if self.unclaimed.is_empty() {
                self.new_address()
            } else {
                self.unclaimed.swap_remove(chance % self.unclaimed.len())
            }
        });
        if let Some(address) = &added {
            self.owners.insert(key(address), number);
        }
        let person = &mut self.people[number];
        match added {
            Some(address) => person.user.emails.push((address, true)),
            None if chance % 3 == 2 && person.user.emails.len() > 1 => {
                person.user.emails.pop();
            }
            None => person.user.emails.iter_mut().for_each(|(_, verified)| *verified = true),
        }
        person.user.first_name = Some(format!("Version {chance}"));
        person.user.updated_at = now.max(person.user.updated_at + TimeDelta::milliseconds(1));
        person.note_verified();
    }

    /// An event about somebody.
    pub fn tell(&mut self, event_type: &str, data: Value, now: DateTime<Utc>) -> usize {
        let number = self.events.len();
        self.events.push(Told {
            svix_id: format!("msg_{number}"),
            body: event(event_type, data, now).to_string(),
            is_acknowledged: false,
        });
        number
    }

    /// `user.created` or `user.updated`, as they are now.
    pub fn tell_user(&mut self, event_type: &str, number: usize, now: DateTime<Utc>) -> usize {
        let data = self.people[number].user.to_json();
        self.tell(event_type, data, now)
    }

    /// `user.deleted`.
    pub fn tell_deletion(&mut self, number: usize, now: DateTime<Utc>) -> usize {
        let person = &mut self.people[number];
        person.is_deleted = true;
        let data = deleted_user(&person.user.id);
        self.tell("user.deleted", data, now)
    }

    /// `session.created`.
    pub fn tell_sign_in(&mut self, number: usize, with_user: bool, now: DateTime<Utc>) -> usize {
        self.sessions += 1;
        let id = format!("sess_{}", self.sessions);
        let person = &mut self.people[number];
        let user = with_user.then_some(&person.user);
        let data = session(&id, &person.user.id, "active", user, now);
        person.sessions.push((id, false));
        self.tell("session.created", data, now)
    }

    /// `session.ended` for the last session of theirs that goes on.
    pub fn tell_sign_out(&mut self, number: usize, now: DateTime<Utc>) -> Option<usize> {
        let person = &mut self.people[number];
        let (id, ended) = person.sessions.iter_mut().rev().find(|(_, ended)| !ended)?;
        *ended = true;
        let data = session(id, &person.user.id, "ended", None, now);
        Some(self.tell("session.ended", data, now))
    }

    /// Someone who can sign in and is not part of a probe.
    pub fn live_person(&self, chance: usize) -> Option<usize> {
        let count = self.people.len();
        (0..count)
            .map(|step| (chance + step) % count)
            .find(|&number| !self.people[number].is_deleted && !self.people[number].is_probe)
    }

    /// Notes what usher says became of an invite; `false` if it had said otherwise before.
    pub fn settle(&mut self, id: Uuid, status: &'static str) -> bool {
        let Some(asked) = self.invites.get_mut(&id) else {
            return true;
        };
        asked.is_final.replace(status).is_none_or(|before| before == status)
    }
}

impl Person {
    fn note_verified(&mut self) {
        let verified = self.user.emails.iter().filter(|(_, verified)| *verified);
        self.ever_verified.extend(verified.map(|(email, _)| key(email)));
    }
}
