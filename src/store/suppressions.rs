//! Addresses that a mail server rejected permanently.

use super::{Result, Tx, on_conn};
use crate::invites::email::EmailKey;

impl Tx {
    /// No mails are sent to this address any more.
    pub async fn suppress_address(&mut self, key: &EmailKey, reason: &str) -> Result<()> {
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(
            "insert into usher_suppressions (email_key, reason, suppressed_at) values ($1, $2, $3)
             on conflict (email_key) do update set reason = excluded.reason, suppressed_at = excluded.suppressed_at"
        )
        .bind(key.as_str())
        .bind(reason)
        .bind(now)
        .execute(conn)
        .await
        .map(drop))?;
        Ok(())
    }

    /// Mails are sent to this address again.
    pub async fn release_address(&mut self, key: &EmailKey) -> Result<()> {
        on_conn!(self, |conn| sqlx::query(
            "delete from usher_suppressions where email_key = $1"
        )
        .bind(key.as_str())
        .execute(conn)
        .await
        .map(drop))?;
        Ok(())
    }
}
