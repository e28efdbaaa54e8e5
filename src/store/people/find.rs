//! People by the ids that Clerk or the app gives them.

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use super::{PERSON, Person, UserId};
use crate::invites::PersonRef;
use crate::store::rows::{Type, of_rows, sql, to_json, unfold};
use crate::store::{Dialect, Result, Tx, on_conn};

#[derive(Serialize)]
struct RefRow<'a> {
    admin_id: Option<Uuid>,
    user_id: Option<&'a str>,
}

/// The `admins.id` that an admin's id or a Clerk user id means; null for unknown and deleted people. On Postgres, it is the
/// function that inviting by SQL reads, too; SQLite has no functions of its own.
pub(in crate::store) fn inviter(dialect: Dialect, admin_id: &str, user_id: &str) -> String {
    match dialect {
        Dialect::Postgres => format!("usher_inviter({admin_id}, {user_id})"),
        Dialect::Sqlite => format!(
            "coalesce((select a.id from admins a where a.id = {admin_id} and a.deleted_at is null),
                 (select a.id from admins a where a.external_id = {user_id} and a.deleted_at is null
                  order by a.created_at, a.id limit 1))"
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
        let ids: Vec<_> = clerk_user_ids.iter().map(|user_id| UserId { user_id }).collect();
        let rows = unfold(self.dialect(), &[("user_id", Type::Text)]);
        let named = of_rows(self.dialect(), "clerk_user_id", "user_id", &rows);
        let text = format!(
            "select {PERSON} from usher_people where {named} and (seen_at is not null or deleted_at is not null) {lock}"
        );
        let ids = to_json(&ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Like [`Tx::people_by_clerk_id`], but locks the rows: until this transaction ends, they can't be changed, banned
    /// or deleted. So a decision based on them is still true at the commit.
    pub async fn lock_people(&mut self, clerk_user_ids: &[&str]) -> Result<Vec<Person>> {
        let lock = match self.dialect() {
            Dialect::Postgres => "order by clerk_user_id for update",
            // A writing transaction locks the whole database.
            Dialect::Sqlite => "order by clerk_user_id",
        };
        self.find_people(clerk_user_ids, lock).await
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
        let inviter = inviter(self.dialect(), "r.admin_id", "r.user_id");
        let text = format!("select r.admin_id, r.user_id, {inviter} as id from {source}");
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
