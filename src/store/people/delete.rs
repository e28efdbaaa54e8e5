//! People whom Clerk deleted.

use serde::Serialize;
use uuid::Uuid;

use super::{PERSON_ID, admin_ids, person_ids};
use crate::store::rows::{Time, Type, among, in_order_of_id, of_rows, sql, to_json, unfold};
use crate::store::{Result, Tx, on_conn};

#[derive(Serialize)]
struct Tombstone<'a> {
    user_id: &'a str,
    new_id: Uuid,
}

impl Tx {
    /// Soft-deletes people with all their memberships. Keeps tombstones, also of people that usher never knew.
    pub async fn delete_people(&mut self, clerk_user_ids: &[&str]) -> Result<()> {
        if clerk_user_ids.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut ids: Vec<_> = clerk_user_ids
            .iter()
            .map(|user_id| Tombstone {
                user_id,
                new_id: self.clock.new_id(),
            })
            .collect();
        ids.sort_by_key(|row| row.user_id);
        let ids = to_json(&ids)?;
        let rows = unfold(self.dialect(), &[("user_id", Type::Text), ("new_id", Type::Uuid)]);
        let text = format!(
            "insert into usher_people (clerk_user_id, id, deleted_at) select r.user_id, r.new_id, $2
             from {rows} where true
             on conflict (clerk_user_id) do update set
                 deleted_at = coalesce(usher_people.deleted_at, excluded.deleted_at)
             returning id"
        );
        let people: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(&ids)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        // An app may have several rows for one Clerk user. What it has linked to another one meanwhile stays.
        let theirs = of_rows(self.dialect(), "external_id", "user_id", &rows);
        let text = if self.is_shared {
            format!("select id from usher_admins where {theirs} and $2 = $2")
        } else {
            format!(
                "update admins set deleted_at = coalesce(deleted_at, $2),
                     updated_at = case when deleted_at is null then $2 else updated_at end
                 where {theirs} returning id"
            )
        };
        let admins: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(ids)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        if self.is_shared {
            let now = Time(now);
            let fields = serde_json::json!({ "deleted_at": now, "updated_at": now });
            let savepoint = self.savepoint().await?;
            let deleted = self.update_app("admins", "id = any ($1)", &admins, &fields).await;
            // The memberships end all the same.
            if let Err(refusal) = self.keep(savepoint, deleted).await? {
                tracing::warn!("people that Clerk has deleted stay in the app's admins: {refusal}");
            }
        }
        self.delete_addresses(&people).await?;
        let people = person_ids(&people)?;
        let these = unfold(self.dialect(), PERSON_ID);
        for text in [
            format!(
                "update usher_sessions set status = 'ended', ended_at = $2
                     where status = 'active' and person_id in (select r.person_id from {these})"
            ),
            format!(
                "update invites set flagged_at = null, flagged_for = null, dismissed_at = null, updated_at = $2
                     where {}",
                among(
                    self.dialect(),
                    "id",
                    &format!(
                        "select id from invites
                         where status = 'pending' and flagged_for in (select r.person_id from {these}) {}",
                        in_order_of_id(self.dialect())
                    )
                )
            ),
        ] {
            on_conn!(self, |conn| sqlx::query(sql(text))
                .bind(&people)
                .bind(now)
                .execute(conn)
                .await
                .map(drop))?;
        }
        // Memberships are locked after people and invites.
        self.end_memberships(&admin_ids(&admins)?).await
    }
}
