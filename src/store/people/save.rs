//! Profiles from Clerk: stored, and linked to the app's people.

use std::collections::{BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use super::{Address, Person, Profile, person};
use crate::invites::email::{EmailAddress, EmailKey};
use crate::store::rows::{Row as _, Time, ids_json, of_ids, row, sql, to_json};
use crate::store::{Conn, Result, StoreError, Tx, on_conn};
use usher_base::Throttle;

/// At most one line a minute: each event about the person would make it.
static NOT_SYNCED: Throttle = Throttle::per_minute();

row! {
    struct ProfileRow<'a> {
        clerk_user_id: &'a str,
        /// If the person is new.
        id: Uuid,
        email: Option<&'a str>,
        first_name: Option<&'a str>,
        last_name: Option<&'a str>,
        image_url: Option<&'a str>,
        locale: Option<&'a str>,
        banned: bool,
        locked: bool,
        clerk_created_at: Time,
        clerk_updated_at: Time,
    }
}

row! {
    struct LinkRow<'a> {
        user_id: &'a str,
        admin_id: Uuid,
    }
}

/// The people whose profile was newer than what was stored.
struct Applied {
    people: Vec<Person>,
    /// Those of them who had a row already, so that they may have addresses.
    seen_before: Vec<Uuid>,
}

impl Profile {
    fn verified(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(|address| address.verified)
    }

    /// The primary address if it is verified, or else another verified one: what is not verified may be another person's.
    fn email(&self) -> Option<&str> {
        let primary = self.verified().find(|address| address.primary);
        primary.or(self.verified().next()).map(|address| address.email.as_str())
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
        let Applied {
            people: applied,
            seen_before,
        } = self.save_profiles(profiles).await?;
        let fresh: HashSet<&str> = applied.iter().map(|person| person.clerk_user_id.as_str()).collect();
        let stale: Vec<&str> = profiles
            .iter()
            .map(|profile| profile.clerk_user_id.as_str())
            .filter(|id| !fresh.contains(id))
            .collect();
        self.delete_addresses(&seen_before).await?;
        self.save_addresses(profiles, &applied).await?;
        let mut people = self.lock_people(&stale).await?;
        people.extend(applied);
        Ok(people)
    }

    async fn save_profiles(&mut self, profiles: &[&Profile]) -> Result<Applied> {
        self.link_people(profiles).await?;
        let mut rows: Vec<_> = profiles.iter().map(|profile| self.profile_row(profile)).collect();
        // Always in this order, so that processes can't deadlock.
        rows.sort_by_key(|row| row.clerk_user_id);
        let new_ids: HashSet<Uuid> = rows.iter().map(|row| row.id).collect();
        let rows = to_json(&rows)?;
        let (columns, source) = (ProfileRow::columns(), ProfileRow::unfold(self.dialect()));
        let text = format!(
            "insert into usher_people ({columns}, admin_id, seen_at)
             select r.*,
                 (select id from usher_admins where external_id = r.clerk_user_id and deleted_at is null
                  order by created_at, id limit 1),
                 $2
             from {source} where true
             on conflict (clerk_user_id) do update set
                 admin_id = coalesce(excluded.admin_id, usher_people.admin_id), email = excluded.email,
                 first_name = excluded.first_name, last_name = excluded.last_name, image_url = excluded.image_url,
                 clerk_created_at = excluded.clerk_created_at, clerk_updated_at = excluded.clerk_updated_at,
                 banned = excluded.banned, locked = excluded.locked, locale = excluded.locale, seen_at = excluded.seen_at
             where usher_people.deleted_at is null
                 and coalesce(usher_people.clerk_updated_at <= excluded.clerk_updated_at, true)
             returning {}",
            person("usher_people")
        );
        let now = self.clock.now();
        let people: Vec<Person> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(&rows)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        let members: Vec<Uuid> = people.iter().filter_map(|person| person.row_in_admins).collect();
        if !members.is_empty() {
            self.update_admins(&members).await?;
        }
        let seen_before = people.iter().map(|person| person.id);
        let seen_before = seen_before.filter(|id| !new_ids.contains(id)).collect();
        Ok(Applied { people, seen_before })
    }

    /// Writes what Clerk says to the rows that there are in usher's own `admins`; to an app's only with `USHER_SYNC_PROFILES=on`.
    async fn update_admins(&mut self, admins: &[Uuid]) -> Result<()> {
        if let (Conn::Postgres(conn), true) = (&mut self.conn, self.is_shared) {
            let left_out: i64 = sqlx::query_scalar("select usher_sync_admins($1, $2)")
                .bind(admins)
                .bind(self.clock.now())
                .fetch_one(&mut **conn)
                .await?;
            if left_out > 0 && NOT_SYNCED.admit().is_some() {
                tracing::warn!(
                    "USHER_SYNC_PROFILES: a profile was not written, because the app's admins allow an address only once, or a \
                     constraint of theirs forbids it"
                );
            }
            return Ok(());
        }
        let text = format!(
            "update admins set updated_at = $2, email = p.email, first_name = p.first_name, last_name = p.last_name,
                 image_url = p.image_url
             from usher_people p where p.clerk_user_id = admins.external_id and admins.deleted_at is null and {}",
            of_ids(self.dialect(), "admins.id")
        );
        let admins = ids_json(admins)?;
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(admins)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Links the app's people without a Clerk account to accounts that Clerk reports for the first time: a link that the app
    /// cuts later is not made again.
    async fn link_people(&mut self, profiles: &[&Profile]) -> Result<()> {
        if !self.is_shared {
            return Ok(());
        }
        let mut links = self.people_to_link(profiles).await?;
        if links.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = links.keys().copied().collect();
        let known = self.people_by_clerk_id(&ids).await?;
        links.retain(|user_id, _| known.iter().all(|person| person.clerk_user_id != *user_id));
        let mut rows: Vec<_> = links
            .into_iter()
            .map(|(user_id, admin_id)| LinkRow { user_id, admin_id })
            .collect();
        rows.sort_by_key(|row| row.admin_id);
        if self.link(&rows).await? {
            return Ok(());
        }
        // The app's table refuses one of them.
        for row in &rows {
            self.link(std::slice::from_ref(row)).await?;
        }
        Ok(())
    }

    /// Links these people, or none of them: `false` if the app's table refuses one.
    async fn link(&mut self, rows: &[LinkRow<'_>]) -> Result<bool> {
        let source = LinkRow::unfold(self.dialect());
        let text = format!(
            "update admins set external_id = r.user_id from {source}
             where admins.id = r.admin_id and admins.external_id is null
                 and not exists (select 1 from usher_admins o where o.external_id = r.user_id and o.deleted_at is null)"
        );
        let json = to_json(rows)?;
        let savepoint = self.savepoint().await?;
        let linked = on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(json)
            .execute(conn)
            .await
            .map(drop));
        let linked = self.keep(savepoint, linked.map_err(StoreError)).await?;
        if let (Err(refusal), [row]) = (&linked, rows) {
            tracing::warn!(clerk_user_id = row.user_id, admin_id = %row.admin_id, "a person can't be linked: {refusal}");
        }
        Ok(linked.is_ok())
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
        let Conn::Postgres(conn) = &mut self.conn else {
            return Ok(HashMap::new()); // An app's tables are on Postgres.
        };
        let spellings: Vec<String> = spellings.into_iter().collect();
        // Locked until the link is committed, so that no other transaction links them.
        let found: Vec<(Uuid, String)> = sqlx::query_as("select admin_id, address from usher_unlinked_at($1)")
            .bind(spellings)
            .fetch_all(&mut **conn)
            .await?;
        Ok(links(profiles, &found))
    }

    fn profile_row<'a>(&self, profile: &'a Profile) -> ProfileRow<'a> {
        ProfileRow {
            clerk_user_id: &profile.clerk_user_id,
            id: self.clock.new_id(),
            email: profile.email(),
            first_name: profile.first_name.as_deref(),
            last_name: profile.last_name.as_deref(),
            image_url: profile.image_url.as_deref(),
            locale: profile.locale.as_deref(),
            banned: profile.banned,
            locked: profile.locked,
            clerk_created_at: Time(profile.created_at),
            clerk_updated_at: Time(profile.updated_at),
        }
    }
}
