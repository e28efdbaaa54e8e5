//! People: what Clerk last said about each, their addresses, and their row in `admins` if they are members.

mod addresses;
mod delete;
mod find;
pub use find::NewAdmin;
pub(in crate::store) use find::{admin_of, inviter};
mod save;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::rows::{row, to_json};
use super::{Result, Tx};
use crate::invites::email::EmailKey;
use crate::invites::matching;

/// A person as Clerk describes them.
#[derive(Debug, Clone)]
pub struct Profile {
    /// `user_…`
    pub clerk_user_id: String,
    /// Every address that usher can parse.
    pub addresses: Vec<Address>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub image_url: Option<String>,
    /// BCP 47.
    pub locale: Option<String>,
    pub banned: bool,
    pub locked: bool,
    pub created_at: DateTime<Utc>,
    /// The version of this description.
    pub updated_at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub struct Address {
    /// As Clerk shows it.
    pub email: String,
    /// The normalized form, for comparisons.
    pub key: EmailKey,
    /// Verified by Clerk.
    pub verified: bool,
    /// The primary address.
    pub primary: bool,
}

/// A person that usher knows.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Person {
    /// `user_…`
    pub clerk_user_id: String,
    /// What addresses, sessions and flags are kept by.
    pub id: Uuid,
    /// Their row in `admins`, looked up now; if they have none, the id that it gets when they become a member. `None` if the app
    /// has deleted the row or linked it to another Clerk account: a link that the app has cut stays cut.
    pub admin_id: Option<Uuid>,
    /// The row that was theirs when Clerk last told of them.
    pub row_in_admins: Option<Uuid>,
    pub clerk_created_at: Option<DateTime<Utc>>,
    pub banned: bool,
    pub locked: bool,
    /// When Clerk's last event about them was applied.
    pub seen_at: Option<DateTime<Utc>>,
    /// When Clerk deleted them.
    pub deleted_at: Option<DateTime<Utc>>,
}

impl Person {
    /// The data for matching; `None` for a tombstone, and if the app has cut the link.
    #[must_use]
    pub fn for_matching(&self) -> Option<matching::Person> {
        Some(matching::Person {
            id: self.id,
            admin_id: self.admin_id?,
            clerk_created_at: self.clerk_created_at?,
            blocked: self.banned || self.locked || self.deleted_at.is_some(),
        })
    }
}

/// The columns of [`Person`], of the row `p` in `usher_people`.
fn person(p: &str) -> String {
    format!(
        "{p}.clerk_user_id, {p}.id, {} as admin_id, {p}.admin_id as row_in_admins, {p}.clerk_created_at, {p}.banned, {p}.locked, {p}.seen_at, {p}.deleted_at",
        admin_of(p)
    )
}

row! {
    pub(super) struct NewPerson<'a> {
        clerk_user_id: &'a str,
        /// If the person is new.
        id: Uuid,
    }
}

impl Tx {
    /// Always in the order of their ids, so that processes can't deadlock.
    pub(super) fn new_people(&self, clerk_user_ids: &[&str]) -> Result<String> {
        let mut rows: Vec<_> = clerk_user_ids
            .iter()
            .map(|clerk_user_id| NewPerson {
                clerk_user_id,
                id: self.clock.new_id(),
            })
            .collect();
        rows.sort_by_key(|row| row.clerk_user_id);
        rows.dedup_by_key(|row| row.clerk_user_id);
        to_json(&rows)
    }
}
