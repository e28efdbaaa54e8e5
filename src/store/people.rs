//! People: what Clerk last said about each, their row in the app's `admins`, and their addresses.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::rows::{Time, Type, among, and_among, in_order_of_id, of_rows, sql, to_json, unfold};
use super::{Dialect, Result, Tx, on_conn};
use crate::invites::email::{EmailAddress, EmailKey};
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

/// How the app refers to a person.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PersonRef {
    /// By `admins.id`.
    Admin(Uuid),
    /// By Clerk user id.
    Clerk(String),
}

/// A person that usher knows.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Person {
    /// `user_…`
    pub clerk_user_id: String,
    /// `None` for the tombstone of a person who was deleted before usher knew them.
    pub admin_id: Option<Uuid>,
    pub clerk_created_at: Option<DateTime<Utc>>,
    pub banned: bool,
    pub locked: bool,
    /// When Clerk's last event about them was applied.
    pub seen_at: Option<DateTime<Utc>>,
    /// When Clerk deleted them.
    pub deleted_at: Option<DateTime<Utc>>,
}

impl Person {
    /// The data for matching; `None` for a tombstone.
    #[must_use]
    pub fn for_matching(&self) -> Option<matching::Person> {
        Some(matching::Person {
            admin_id: self.admin_id?,
            clerk_created_at: self.clerk_created_at?,
            blocked: self.banned || self.locked || self.deleted_at.is_some(),
        })
    }
}

const PERSON: &str = "clerk_user_id, admin_id, clerk_created_at, banned, locked, seen_at, deleted_at";

#[derive(Serialize)]
struct ProfileRow<'a> {
    user_id: &'a str,
    new_admin_id: Uuid,
    email: Option<&'a str>,
    first_name: Option<&'a str>,
    last_name: Option<&'a str>,
    image_url: Option<&'a str>,
    locale: Option<&'a str>,
    banned: bool,
    locked: bool,
    created_at: Time,
    updated_at: Time,
}

#[derive(Serialize)]
struct AddressRow<'a> {
    admin_id: Uuid,
    email_key: &'a str,
    email: &'a str,
    verified: bool,
    is_primary: bool,
}

#[derive(Serialize)]
struct RefRow<'a> {
    admin_id: Option<Uuid>,
    user_id: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct EmailKeyRow<'a> {
    pub email_key: &'a str,
}

pub(super) const EMAIL_KEY: &[(&str, Type)] = &[("email_key", Type::Text)];

#[derive(Serialize)]
struct UserId<'a> {
    user_id: &'a str,
}

#[derive(Serialize)]
pub(super) struct AdminId {
    pub admin_id: Uuid,
}

pub(super) fn admin_ids(ids: &[Uuid]) -> Result<String> {
    let rows: Vec<_> = ids.iter().map(|&admin_id| AdminId { admin_id }).collect();
    to_json(&rows)
}

impl Profile {
    fn verified(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(|address| address.verified)
    }
}

/// Links Clerk users to the app's people. A user is linked if their verified addresses belong to exactly one person and
/// no other user claims that person. An address that occurs twice, in whatever case, links to no person: it is unknown
/// which row has the right memberships.
fn links<'a>(profiles: &[&'a Profile], found: &[(Uuid, String)]) -> HashMap<&'a str, Uuid> {
    let owners: Vec<(EmailKey, Uuid)> = found
        .iter()
        .filter_map(|(id, email)| Some((EmailAddress::parse(email).ok()?.key().clone(), *id)))
        .collect();
    let mut links = HashMap::new();
    let mut claims: HashMap<Uuid, u32> = HashMap::new();
    for profile in profiles {
        let theirs: HashSet<Uuid> = owners
            .iter()
            .filter(|(key, _)| profile.verified().any(|address| address.key == *key))
            .map(|&(_, id)| id)
            .collect();
        for &id in &theirs {
            *claims.entry(id).or_default() += 1;
        }
        if let (Some(&id), 1) = (theirs.iter().next(), theirs.len()) {
            links.insert(profile.clerk_user_id.as_str(), id);
        }
    }
    links.retain(|_, id| claims.get(id) == Some(&1));
    links
}

impl Tx {
    /// Stores what Clerk says about these people, one profile per person. An older profile never overwrites a newer
    /// one, and a deleted person stays deleted. Returns all of them as they are then.
    pub async fn save_people(&mut self, profiles: &[&Profile]) -> Result<Vec<Person>> {
        if profiles.is_empty() {
            return Ok(Vec::new());
        }
        let applied = self.save_profiles(profiles).await?;
        let fresh: HashSet<&str> = applied.iter().map(|person| person.clerk_user_id.as_str()).collect();
        let stale: Vec<&str> = profiles
            .iter()
            .map(|profile| profile.clerk_user_id.as_str())
            .filter(|id| !fresh.contains(id))
            .collect();
        self.save_addresses(profiles, &applied).await?;
        let mut people = self.hold_people(&stale).await?;
        people.extend(applied);
        Ok(people)
    }

    async fn save_profiles<'a>(&mut self, profiles: &[&'a Profile]) -> Result<Vec<Person>> {
        let links = self.people_to_link(profiles).await?;
        let row = |profile: &&'a Profile| {
            let known = links.get(profile.clerk_user_id.as_str()).copied();
            self.profile_row(profile, known.unwrap_or_else(|| self.clock.new_id()))
        };
        let mut rows: Vec<_> = profiles.iter().map(row).collect();
        // Always in this order, so that processes can't deadlock.
        rows.sort_by_key(|row| row.user_id);
        let rows = to_json(&rows)?;
        let source = unfold(
            self.dialect(),
            &[
                ("user_id", Type::Text),
                ("new_admin_id", Type::Uuid),
                ("email", Type::Text),
                ("first_name", Type::Text),
                ("last_name", Type::Text),
                ("image_url", Type::Text),
                ("locale", Type::Text),
                ("banned", Type::Bool),
                ("locked", Type::Bool),
                ("created_at", Type::Time),
                ("updated_at", Type::Time),
            ],
        );
        let text = format!(
            "insert into usher_people
                 (clerk_user_id, admin_id, clerk_created_at, clerk_updated_at, banned, locked, locale, seen_at)
             select r.user_id,
                 coalesce(
                     (select id from admins where external_id = r.user_id and deleted_at is null
                      order by created_at, id limit 1),
                     r.new_admin_id),
                 r.created_at, r.updated_at, r.banned, r.locked, r.locale, $2
             from {source} where true
             on conflict (clerk_user_id) do update set
                 admin_id = coalesce(usher_people.admin_id, excluded.admin_id),
                 clerk_created_at = excluded.clerk_created_at, clerk_updated_at = excluded.clerk_updated_at,
                 banned = excluded.banned, locked = excluded.locked, locale = excluded.locale, seen_at = excluded.seen_at
             where usher_people.deleted_at is null and usher_people.clerk_updated_at <= excluded.clerk_updated_at
             returning {PERSON}"
        );
        let now = self.clock.now();
        let applied: Vec<Person> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(&rows)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        // If the app's addresses are unique, the row that has the address keeps it. usher itself uses usher_addresses.
        let email = match self.dialect() {
            Dialect::Postgres => {
                "case when (select unique_emails from usher_settings) <> 'no' and exists (
                     select from admins o where lower(trim(o.email)) = lower(trim(r.email)) and o.id <> p.admin_id
                         and (o.deleted_at is null or (select unique_emails from usher_settings) = 'all'))
                     then null else r.email end"
            }
            Dialect::Sqlite => "r.email",
        };
        let and_theirs = and_among(
            self.dialect(),
            "p.clerk_user_id",
            &format!("select r.user_id from {source}"),
        );
        let text = format!(
            "insert into admins
                 (id, external_id, email, first_name, last_name, image_url, created_at, updated_at)
             select p.admin_id, r.user_id, {email}, r.first_name, r.last_name, r.image_url, $2, $2
             from {source} join usher_people p on p.clerk_user_id = r.user_id
                 and p.deleted_at is null and p.clerk_updated_at = r.updated_at {and_theirs}
             where true
             on conflict (id) do update set
                 external_id = excluded.external_id, updated_at = excluded.updated_at, {}",
            ["email", "first_name", "last_name", "image_url"]
                // When a person is linked for the first time, the app's value stays where Clerk has none.
                .map(|column| format!(
                    "{column} = case when admins.external_id is null
                         then coalesce(excluded.{column}, admins.{column}) else excluded.{column} end"
                ))
                .join(", ")
        );
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(applied)
    }

    /// The app's people without a Clerk id, by the Clerk user who has their address, verified.
    async fn people_to_link<'a>(&mut self, profiles: &[&'a Profile]) -> Result<HashMap<&'a str, Uuid>> {
        // Both spellings of a domain; the keys then decide whether it is the same address.
        let spellings: BTreeSet<String> = profiles
            .iter()
            .flat_map(|profile| profile.verified())
            .flat_map(|address| [address.email.to_lowercase(), address.key.as_str().to_owned()])
            .collect();
        if spellings.is_empty() {
            return Ok(HashMap::new());
        }
        let spellings: Vec<_> = spellings.iter().map(|email_key| EmailKeyRow { email_key }).collect();
        let rows = unfold(self.dialect(), EMAIL_KEY);
        let theirs = of_rows(self.dialect(), "lower(trim(email))", "email_key", &rows);
        // Locked until the link is committed, so that no other transaction links them.
        let lock = match self.dialect() {
            Dialect::Postgres => "for update",
            Dialect::Sqlite => "",
        };
        let text = format!(
            "select id, email from admins where external_id is null and deleted_at is null and {theirs} order by id {lock}"
        );
        let spellings = to_json(&spellings)?;
        let found: Vec<(Uuid, String)> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(spellings)
            .fetch_all(conn)
            .await)?;
        Ok(links(profiles, &found))
    }

    fn profile_row<'a>(&self, profile: &'a Profile, new_admin_id: Uuid) -> ProfileRow<'a> {
        let primary = profile.addresses.iter().find(|address| address.primary);
        ProfileRow {
            user_id: &profile.clerk_user_id,
            new_admin_id,
            email: primary
                .or(profile.addresses.first())
                .map(|address| address.email.as_str()),
            first_name: profile.first_name.as_deref(),
            last_name: profile.last_name.as_deref(),
            image_url: profile.image_url.as_deref(),
            locale: profile.locale.as_deref(),
            banned: profile.banned,
            locked: profile.locked,
            created_at: Time(profile.created_at),
            updated_at: Time(profile.updated_at),
        }
    }

    /// Replaces the addresses of the people whose profile was applied.
    async fn save_addresses(&mut self, profiles: &[&Profile], applied: &[Person]) -> Result<()> {
        let mut addresses = Vec::new();
        let mut admins = Vec::with_capacity(applied.len());
        for person in applied {
            let profile = profiles
                .iter()
                .find(|profile| profile.clerk_user_id == person.clerk_user_id);
            let (Some(profile), Some(admin_id)) = (profile, person.admin_id) else {
                continue;
            };
            admins.push(admin_id);
            let mut seen = HashSet::new();
            for address in profile.addresses.iter().filter(|address| seen.insert(&address.key)) {
                addresses.push(AddressRow {
                    admin_id,
                    email_key: address.key.as_str(),
                    email: &address.email,
                    verified: address.verified,
                    is_primary: address.primary,
                });
            }
        }
        let source = unfold(
            self.dialect(),
            &[
                ("admin_id", Type::Uuid),
                ("email_key", Type::Text),
                ("email", Type::Text),
                ("verified", Type::Bool),
                ("is_primary", Type::Bool),
            ],
        );
        self.delete_addresses(&admins).await?;
        let text = format!(
            "insert into usher_addresses (admin_id, email_key, email, verified, is_primary)
             select r.admin_id, r.email_key, r.email, r.verified, r.is_primary from {source}"
        );
        let rows = to_json(&addresses)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(&rows)
            .execute(conn)
            .await
            .map(drop))?;
        self.take_from_former_owners(rows, &source).await
    }

    /// Clerk gives a verified address to one person at a time. Events come in any order, so if two profiles have it,
    /// the newer one is right. The people are looked up one by one, and only if there are two: in a join, a planner
    /// that estimates their table as small would read all of them for each address.
    async fn take_from_former_owners(&mut self, addresses: String, source: &str) -> Result<()> {
        let text = format!(
            "update usher_addresses set verified = false
             where verified and {}
               and exists (
                 select 1 from usher_addresses newer
                 where newer.email_key = usher_addresses.email_key and newer.verified
                   and newer.admin_id <> usher_addresses.admin_id
                   and (select max(p.clerk_updated_at) from usher_people p
                        where p.admin_id = newer.admin_id and p.deleted_at is null)
                     > (select min(p.clerk_updated_at) from usher_people p
                        where p.admin_id = usher_addresses.admin_id))",
            among(
                self.dialect(),
                "email_key",
                &format!("select r.email_key from {source} where r.verified")
            )
        );
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(addresses)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    async fn delete_addresses(&mut self, admins: &[Uuid]) -> Result<()> {
        let rows = unfold(self.dialect(), &[("admin_id", Type::Uuid)]);
        let theirs = of_rows(self.dialect(), "admin_id", "admin_id", &rows);
        let text = format!("delete from usher_addresses where {theirs}");
        let admins = admin_ids(admins)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(admins)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// The people with these ids that usher knows, tombstones included.
    pub async fn people_by_clerk_id(&mut self, clerk_user_ids: &[&str]) -> Result<Vec<Person>> {
        self.find_people(clerk_user_ids, "").await
    }

    async fn find_people(&mut self, clerk_user_ids: &[&str], lock: &str) -> Result<Vec<Person>> {
        if clerk_user_ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = clerk_user_ids.iter().map(|user_id| UserId { user_id }).collect();
        let rows = unfold(self.dialect(), &[("user_id", Type::Text)]);
        let named = of_rows(self.dialect(), "clerk_user_id", "user_id", &rows);
        let text = format!("select {PERSON} from usher_people where {named} {lock}");
        let ids = to_json(&ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Like [`Tx::people_by_clerk_id`], but locks the rows: until this transaction ends, they can't be changed, banned
    /// or deleted. So a decision based on them is still true at the commit.
    pub async fn hold_people(&mut self, clerk_user_ids: &[&str]) -> Result<Vec<Person>> {
        let lock = match self.dialect() {
            Dialect::Postgres => "order by clerk_user_id for update",
            // A writing transaction locks the whole database.
            Dialect::Sqlite => "order by clerk_user_id",
        };
        self.find_people(clerk_user_ids, lock).await
    }

    /// The verified addresses of these people, by key, with their owners; skips deleted people.
    pub(super) async fn verified_addresses(&mut self, admins: &[Uuid]) -> Result<HashMap<String, Vec<Uuid>>> {
        if admins.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = unfold(self.dialect(), &[("admin_id", Type::Uuid)]);
        // A subquery for the person of each address: in a join, Postgres might read all people for each.
        let text = format!(
            "select a.email_key, a.admin_id from usher_addresses a
             where a.verified and {}
               and (select person.deleted_at is null from admins person where person.id = a.admin_id)",
            of_rows(self.dialect(), "a.admin_id", "admin_id", &rows)
        );
        let admins = admin_ids(admins)?;
        let found: Vec<(String, Uuid)> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(admins)
            .fetch_all(conn)
            .await)?;
        let mut owners: HashMap<String, Vec<Uuid>> = HashMap::new();
        for (email_key, admin_id) in found {
            owners.entry(email_key).or_default().push(admin_id);
        }
        Ok(owners)
    }

    /// The primary addresses of these people; skips deleted people and people without one.
    pub async fn addresses_of_people(&mut self, admins: &[Uuid]) -> Result<HashMap<Uuid, String>> {
        if admins.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = unfold(self.dialect(), &[("admin_id", Type::Uuid)]);
        let text = format!(
            "select id, email from admins
             where deleted_at is null and email is not null and {}",
            of_rows(self.dialect(), "id", "admin_id", &rows)
        );
        let admins = admin_ids(admins)?;
        let found: Vec<(Uuid, String)> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(admins)
            .fetch_all(conn)
            .await)?;
        Ok(found.into_iter().collect())
    }

    /// The `admins.id` of each of these people; skips unknown and deleted people.
    pub async fn live_people(&mut self, wanted: &[PersonRef]) -> Result<HashMap<PersonRef, Uuid>> {
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<_> = wanted
            .iter()
            .map(|person| match person {
                PersonRef::Admin(id) => RefRow {
                    admin_id: Some(*id),
                    user_id: None,
                },
                PersonRef::Clerk(id) => RefRow {
                    admin_id: None,
                    user_id: Some(id),
                },
            })
            .collect();
        let source = unfold(self.dialect(), &[("admin_id", Type::Uuid), ("user_id", Type::Text)]);
        let text = format!(
            "select a.id, null as user_id from {source} join admins a on a.id = r.admin_id where a.deleted_at is null
             union
             select a.id, a.external_id from {source} join admins a on a.external_id = r.user_id
             where a.deleted_at is null"
        );
        let rows = to_json(&rows)?;
        let found: Vec<(Uuid, Option<String>)> =
            on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(rows).fetch_all(conn).await)?;
        let by_ref =
            |(id, user_id): (Uuid, Option<String>)| (user_id.map_or(PersonRef::Admin(id), PersonRef::Clerk), id);
        Ok(found.into_iter().map(by_ref).collect())
    }

    /// The owners of these verified addresses, as pairs of key and `admins.id`.
    pub async fn owners_of(&mut self, keys: &[&EmailKey]) -> Result<Vec<(EmailKey, Uuid)>> {
        let rows: Vec<_> = keys
            .iter()
            .map(|key| EmailKeyRow {
                email_key: key.as_str(),
            })
            .collect();
        let source = unfold(self.dialect(), &[("email_key", Type::Text)]);
        let text = format!(
            "select email_key, admin_id from usher_addresses
             where verified and {}",
            of_rows(self.dialect(), "email_key", "email_key", &source)
        );
        let rows = to_json(&rows)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .fetch_all(conn)
            .await)?)
    }

    /// Soft-deletes people with all their memberships. Keeps tombstones, also of people that usher never knew.
    pub async fn delete_people(&mut self, clerk_user_ids: &[&str]) -> Result<()> {
        if clerk_user_ids.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut ids: Vec<_> = clerk_user_ids.iter().map(|user_id| UserId { user_id }).collect();
        ids.sort_by_key(|row| row.user_id);
        let ids = to_json(&ids)?;
        let rows = unfold(self.dialect(), &[("user_id", Type::Text)]);
        let text = format!(
            "insert into usher_people (clerk_user_id, admin_id, deleted_at)
             select r.user_id,
                 (select id from admins where external_id = r.user_id and deleted_at is null
                  order by created_at, id limit 1), $2
             from {rows} where true
             on conflict (clerk_user_id) do update set
                 admin_id = coalesce(usher_people.admin_id, excluded.admin_id),
                 deleted_at = coalesce(usher_people.deleted_at, excluded.deleted_at)"
        );
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(&ids)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        // An app may have several rows for one Clerk user, and rows that no event mentioned.
        let text = format!(
            "select id from admins where external_id in (select r.user_id from {rows})
             union
             select admin_id from usher_people
             where admin_id is not null and clerk_user_id in (select r.user_id from {rows})"
        );
        let admins: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?;
        self.delete_addresses(&admins).await?;
        let admins = admin_ids(&admins)?;
        let these = unfold(self.dialect(), &[("admin_id", Type::Uuid)]);
        for text in [
            format!(
                "update admins set deleted_at = $2, updated_at = $2
                     where deleted_at is null and id in (select r.admin_id from {these})"
            ),
            format!(
                "update organization_users set deleted_at = $2, updated_at = $2
                     where deleted_at is null and admin_id in (select r.admin_id from {these})"
            ),
            format!(
                "update project_admins set deleted_at = $2, updated_at = $2
                     where deleted_at is null and admin_id in (select r.admin_id from {these})"
            ),
            format!(
                "update usher_sessions set status = 'ended', ended_at = $2
                     where status = 'active' and admin_id in (select r.admin_id from {these})"
            ),
            format!(
                "update invites set flagged_at = null, flagged_for = null, dismissed_at = null, updated_at = $2
                     where {}",
                among(
                    self.dialect(),
                    "id",
                    &format!(
                        "select id from invites
                         where status = 'pending' and flagged_for in (select r.admin_id from {these}) {}",
                        in_order_of_id(self.dialect())
                    )
                )
            ),
        ] {
            on_conn!(self, |conn| sqlx::query(sql(text))
                .bind(&admins)
                .bind(now)
                .execute(conn)
                .await
                .map(drop))?;
        }
        Ok(())
    }
}
