//! People by the ids that Clerk or the app gives them.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Person, person};
use crate::invites::PersonRef;
use crate::store::rows::{Row as _, among, of_texts, row, sql, texts_json, to_json};
use crate::store::{Dialect, Result, Tx, on_conn};

row! {
    /// A person who becomes a member, and so gets a row in `admins`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct NewAdmin {
        /// usher's id of the person.
        pub person_id: Uuid,
        /// The organization; with an app's own tables, the one that the row names.
        pub organization_id: Uuid,
        /// Their role there; with an app's own tables, the row's, if it must have one.
        pub role: String,
    }
}

row! {
    struct RefRow<'a> {
        admin_id: Option<Uuid>,
        user_id: Option<&'a str>,
    }
}

/// The `admins.id` of the row `p` in `usher_people`: the row that is linked to their Clerk account today, or the id that
/// their row gets when they become a member. Null if there was a row and the app has deleted it or linked it to another account.
pub(in crate::store) fn admin_of(p: &str) -> String {
    format!(
        "coalesce(
             (select a.id from usher_admins a where a.external_id = {p}.clerk_user_id and a.deleted_at is null
              order by a.created_at, a.id limit 1),
             case when {p}.deleted_at is null
                 and not exists (select 1 from usher_admins a where a.id in ({p}.id, {p}.admin_id)) then {p}.id end)"
    )
}

/// The `admins.id` that an admin's id or a Clerk user id means; null for unknown and deleted people. On Postgres, it is the
/// function that inviting by SQL reads, too; SQLite has no functions of its own.
pub(in crate::store) fn inviter(dialect: Dialect, admin_id: &str, user_id: &str) -> String {
    match dialect {
        Dialect::Postgres => format!("usher_inviter({admin_id}, {user_id})"),
        Dialect::Sqlite => format!(
            "coalesce((select a.id from usher_admins a where a.id = {admin_id} and a.deleted_at is null),
                 (select a.id from usher_admins a where a.external_id = {user_id} and a.deleted_at is null
                  order by a.created_at, a.id limit 1),
                 (select {} from usher_people p where p.clerk_user_id = {user_id}))",
            admin_of("p")
        ),
    }
}

impl Tx {
    /// The people with these ids of whom Clerk has told, tombstones included.
    pub async fn people_by_clerk_id(&mut self, clerk_user_ids: &[&str]) -> Result<Vec<Person>> {
        self.find_people(clerk_user_ids, "").await
    }

    async fn find_people(&mut self, clerk_user_ids: &[&str], lock: &str) -> Result<Vec<Person>> {
        if clerk_user_ids.is_empty() {
            return Ok(Vec::new());
        }
        let named = of_texts(self.dialect(), "p.clerk_user_id");
        let text = format!(
            "select {} from usher_people p where {named} and (p.seen_at is not null or p.deleted_at is not null) {lock}",
            person("p")
        );
        let ids = texts_json(clerk_user_ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Like [`Tx::people_by_clerk_id`], but locks the rows: until this transaction ends, they can't be changed, banned
    /// or deleted. So a decision based on them is still true at the commit.
    pub async fn lock_people(&mut self, clerk_user_ids: &[&str]) -> Result<Vec<Person>> {
        let lock = match self.dialect() {
            Dialect::Postgres => "order by p.clerk_user_id for update of p",
            // A writing transaction locks the whole database.
            Dialect::Sqlite => "order by p.clerk_user_id",
        };
        self.find_people(clerk_user_ids, lock).await
    }

    /// Adds the rows that are missing in `admins` for people who become members. Their ids are the people's own.
    pub async fn add_to_admins(&mut self, people: &[NewAdmin]) -> Result<()> {
        if people.is_empty() {
            return Ok(());
        }
        let mut people = people.to_vec();
        // Always in this order, so that processes can't deadlock.
        people.sort_by_key(|row| row.person_id);
        people.dedup_by_key(|row| row.person_id);
        let people = to_json(&people)?;
        let new = format!("select r.person_id from {}", NewAdmin::unfold(self.dialect()));
        let text = if self.is_shared {
            "select usher_add_to_admins($1::text::json, $2)".to_owned()
        } else {
            format!(
                "insert into admins (id, external_id, email, first_name, last_name, image_url, created_at, updated_at)
                 select p.id, p.clerk_user_id, p.email, p.first_name, p.last_name, p.image_url, $2, $2
                 from usher_people p where {} and {} = p.id
                 on conflict (id) do nothing",
                among(self.dialect(), "p.id", &new),
                admin_of("p")
            )
        };
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(people)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// The `admins.id` of each of these people, or what it will be; skips unknown and deleted people.
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
        let source = RefRow::unfold(self.dialect());
        let inviter = inviter(self.dialect(), "r.admin_id", "r.user_id");
        let text = format!("select r.*, {inviter} as id from {source}");
        let rows = to_json(&rows)?;
        let found: Vec<(Option<Uuid>, Option<String>, Option<Uuid>)> =
            on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(rows).fetch_all(conn).await)?;
        let by_ref = |(admin_id, user_id, id): (Option<Uuid>, Option<String>, Option<Uuid>)| {
            let named = user_id.map(PersonRef::Clerk).or(admin_id.map(PersonRef::Admin));
            named.zip(id)
        };
        Ok(found.into_iter().filter_map(by_ref).collect())
    }
}
