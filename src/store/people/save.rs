//! Profiles from Clerk: stored, and linked to the app's people.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;
use uuid::Uuid;

use super::{Address, EMAIL_KEY, EmailKeyRow, PERSON, Person, Profile};
use crate::invites::email::{EmailAddress, EmailKey};
use crate::store::rows::{Time, Type, and_among, of_rows, sql, to_json, unfold};
use crate::store::{Dialect, Result, Tx, on_conn};

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
        let mut people = self.lock_people(&stale).await?;
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
             where usher_people.deleted_at is null
                 and coalesce(usher_people.clerk_updated_at <= excluded.clerk_updated_at, true)
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
}
