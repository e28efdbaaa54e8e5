//! Invites that expire, and are renewed.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::invite_columns;
use crate::invites::Invite;
use crate::metrics::InviteEvent;
use crate::store::rows::{among, in_order_of_id, sql};
use crate::store::{Result, Tx, on_conn};

impl Tx {
    /// Marks invites as expired, the longest expired first and at most `limit`; returns how many.
    pub async fn expire_invites(&mut self, limit: u32) -> Result<u64> {
        let now = self.clock.now();
        let oldest =
            "select id from invites where status = 'pending' and expires_at <= $1 order by expires_at limit $2";
        let these = among(
            self.dialect(),
            "id",
            &format!(
                "select id from invites where id in ({oldest}) {}",
                in_order_of_id(self.dialect())
            ),
        );
        let text = format!(
            "update invites set status = 'expired', expired_at = expires_at, updated_at = $1
             where status = 'pending' and expires_at <= $1 and {these} returning id"
        );
        let expired: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)?;
        for &id in &expired {
            self.record_event(InviteEvent::Expired, id, None);
        }
        Ok(expired.len() as u64)
    }

    /// Renews an invite until `expires_at` if it has expired; its link stays valid. `None` if its status is final or it
    /// does not exist. The row is locked until the transaction ends.
    pub async fn renew_invite(&mut self, id: Uuid, expires_at: DateTime<Utc>) -> Result<Option<Invite>> {
        let text = format!(
            "update invites set status = 'pending', expired_at = null, mail_held = null, updated_at = $2,
                 expires_at = case when expires_at <= $2 then $3 else expires_at end
             where id = $1 and status in ('pending', 'expired') returning {}",
            invite_columns("")
        );
        let now = self.clock.now();
        let renewed: Option<Invite> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(now)
            .bind(expires_at)
            .fetch_optional(conn)
            .await)?;
        if renewed.is_some() {
            self.record_event(InviteEvent::Resent, id, None);
        }
        Ok(renewed)
    }
}
