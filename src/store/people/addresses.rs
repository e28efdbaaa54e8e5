//! Addresses and the people who own them.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Person, Profile, admin_of};
use crate::invites::email::{EmailAddress, EmailKey};
use crate::store::rows::{Row as _, among, ids_json, of_ids, of_texts, row, sql, texts_json, to_json};
use crate::store::{Result, Tx, on_conn};

row! {
    struct AddressRow<'a> {
        person_id: Uuid,
        email_key: &'a str,
        email: &'a str,
        verified: bool,
        is_primary: bool,
    }
}

row! {
    struct SpelledRow<'a> {
        email: &'a str,
        email_key: &'a str,
    }
}

impl Tx {
    /// Adds the addresses of the people whose profile was applied. The caller has deleted those that they had before.
    pub(super) async fn save_addresses(&mut self, profiles: &[&Profile], applied: &[Person]) -> Result<()> {
        let mut addresses = Vec::new();
        for person in applied {
            let profile = profiles
                .iter()
                .find(|profile| profile.clerk_user_id == person.clerk_user_id);
            let Some(profile) = profile else { continue };
            let mut seen = HashSet::new();
            for address in profile.addresses.iter().filter(|address| seen.insert(&address.key)) {
                addresses.push(AddressRow {
                    person_id: person.id,
                    email_key: address.key.as_str(),
                    email: &address.email,
                    verified: address.verified,
                    is_primary: address.primary,
                });
            }
        }
        let (columns, source) = (AddressRow::columns(), AddressRow::unfold(self.dialect()));
        let text = format!("insert into usher_addresses ({columns}) select r.* from {source}");
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
                   and newer.person_id <> usher_addresses.person_id
                   and (select p.clerk_updated_at from usher_people p
                        where p.id = newer.person_id and p.deleted_at is null)
                     > (select p.clerk_updated_at from usher_people p where p.id = usher_addresses.person_id))",
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

    pub(super) async fn delete_addresses(&mut self, people: &[Uuid]) -> Result<()> {
        if people.is_empty() {
            return Ok(());
        }
        let theirs = of_ids(self.dialect(), "person_id");
        let text = format!("delete from usher_addresses where {theirs}");
        let people = ids_json(people)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(people)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// The verified addresses of these people, by key, with their owners.
    pub(in crate::store) async fn verified_addresses(&mut self, people: &[Uuid]) -> Result<HashMap<String, Vec<Uuid>>> {
        if people.is_empty() {
            return Ok(HashMap::new());
        }
        let theirs = of_ids(self.dialect(), "person_id");
        let text = format!("select email_key, person_id from usher_addresses where verified and {theirs}");
        let people = ids_json(people)?;
        let found: Vec<(String, Uuid)> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(people)
            .fetch_all(conn)
            .await)?;
        let mut owners: HashMap<String, Vec<Uuid>> = HashMap::new();
        for (email_key, person_id) in found {
            owners.entry(email_key).or_default().push(person_id);
        }
        Ok(owners)
    }

    /// Where mail to these members goes, by `admins.id`: the address of the Clerk account that is linked now. Skips deleted
    /// people and people without a verified address.
    pub async fn addresses_of_people(&mut self, admins: &[Uuid]) -> Result<HashMap<Uuid, String>> {
        if admins.is_empty() {
            return Ok(HashMap::new());
        }
        let text = format!(
            "select a.id, p.email from usher_admins a join usher_people p on p.clerk_user_id = a.external_id
             where a.deleted_at is null and p.deleted_at is null and p.email is not null and {}",
            of_ids(self.dialect(), "a.id")
        );
        let admins = ids_json(admins)?;
        let found: Vec<(Uuid, String)> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(admins)
            .fetch_all(conn)
            .await)?;
        Ok(found.into_iter().collect())
    }

    /// The owners of these addresses, as pairs of key and `admins.id`: who has verified one, or else, in an app's own tables, the
    /// people who have it there and that Clerk has not told of yet. It is the function that inviting by SQL reads, too.
    pub async fn people_at(&mut self, addresses: &[&EmailAddress]) -> Result<Vec<(EmailKey, Uuid)>> {
        if !self.is_shared {
            let keys: Vec<&EmailKey> = addresses.iter().map(|address| address.key()).collect();
            return self.owners_of(&keys).await;
        }
        let rows: Vec<_> = addresses
            .iter()
            .map(|address| SpelledRow {
                email: address.as_str(),
                email_key: address.key().as_str(),
            })
            .collect();
        let rows = to_json(&rows)?;
        let source = SpelledRow::unfold(self.dialect());
        let text = format!("select r.email_key, p from {source} cross join usher_people_at(r.email, r.email_key) as p");
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .fetch_all(conn)
            .await)?)
    }

    /// The owners of these verified addresses, as pairs of key and `admins.id`. Skips people whose link the app has cut.
    pub async fn owners_of(&mut self, keys: &[&EmailKey]) -> Result<Vec<(EmailKey, Uuid)>> {
        // A subquery for the person of each address: in a join, Postgres might read all people for each.
        let text = format!(
            "select x.email_key, (select {} from usher_people p where p.id = x.person_id) as admin_id
             from usher_addresses x where x.verified and {}",
            admin_of("p"),
            of_texts(self.dialect(), "x.email_key")
        );
        let rows = texts_json(&keys.iter().map(|key| key.as_str()).collect::<Vec<_>>())?;
        let owners: Vec<(EmailKey, Option<Uuid>)> =
            on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(rows).fetch_all(conn).await)?;
        Ok(owners
            .into_iter()
            .filter_map(|(key, admin_id)| Some((key, admin_id?)))
            .collect())
    }
}
