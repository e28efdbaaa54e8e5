//! People whom Clerk deleted.

use uuid::Uuid;

use super::NewPerson;
use crate::store::rows::{IdRow, Row as _, Time, among, ids_json, in_order_of_id, sql};
use crate::store::{Result, Tx, on_conn};

impl Tx {
    /// Soft-deletes people with all their memberships. Keeps tombstones, also of people that usher never knew.
    pub async fn delete_people(&mut self, clerk_user_ids: &[&str]) -> Result<()> {
        if clerk_user_ids.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let ids = self.new_people(clerk_user_ids)?;
        let (columns, source) = (NewPerson::columns(), NewPerson::unfold(self.dialect()));
        let text = format!(
            "insert into usher_people ({columns}, deleted_at) select r.*, $2 from {source} where true
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
        let these = format!("select r.clerk_user_id from {source}");
        let theirs = among(self.dialect(), "external_id", &these);
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
        let people = ids_json(&people)?;
        let these = IdRow::unfold(self.dialect());
        for text in [
            format!(
                "update usher_sessions set status = 'ended', ended_at = $2
                     where status = 'active' and person_id in (select r.id from {these})"
            ),
            format!(
                "update invites set flagged_at = null, flagged_for = null, dismissed_at = null, updated_at = $2
                     where {}",
                among(
                    self.dialect(),
                    "id",
                    &format!(
                        "select id from invites
                         where status = 'pending' and flagged_for in (select r.id from {these}) {}",
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
        self.end_memberships(&ids_json(&admins)?).await
    }
}
