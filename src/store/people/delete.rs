//! People whom Clerk deleted.

use uuid::Uuid;

use super::{UserId, admin_ids};
use crate::store::rows::{Type, among, in_order_of_id, sql, to_json, unfold};
use crate::store::{Result, Tx, on_conn};

impl Tx {
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
        // Memberships are locked after people and invites.
        self.end_memberships(&admins).await
    }
}
