//! The audit: what was changed by hand, on the board or the command line, and what was refused.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{Result, Tx, on_conn};
use crate::names::named;

named! {
    /// Where something was changed by hand.
    AuditDoor("door") {
        /// In a browser.
        Board = "board",
        /// By a command.
        CommandLine = "command line",
    }
}

/// An entry before it is stored.
#[derive(Debug, Clone)]
pub struct NewAudit<'a> {
    /// Of one change. Batches of it share the entry.
    pub id: Uuid,
    pub who: &'a str,
    pub door: AuditDoor,
    /// Such as `retry jobs`.
    pub action: &'a str,
    /// What was chosen: ids, or a filter, without addresses.
    pub subject: &'a str,
}

#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct AuditView {
    pub id: Uuid,
    pub at: DateTime<Utc>,
    pub who: String,
    #[sqlx(try_from = "String")]
    pub door: AuditDoor,
    pub action: String,
    pub subject: String,
    pub changed: i64,
    /// Why nothing was changed, if it was refused.
    pub refused: Option<String>,
}

impl Tx {
    /// Stores how many were changed, in the transaction that changes them. Later batches of the same change are added.
    pub async fn note_change(&mut self, entry: &NewAudit<'_>, changed: u64) -> Result<()> {
        self.insert_audit(entry, i64::try_from(changed).unwrap_or(i64::MAX), None)
            .await
    }

    /// Stores that something was refused.
    pub async fn note_refusal(&mut self, entry: &NewAudit<'_>, why: &str) -> Result<()> {
        self.insert_audit(entry, 0, Some(why)).await
    }

    /// The id of a change that goes on comes from a form: an entry of another change is left alone.
    async fn insert_audit(&mut self, entry: &NewAudit<'_>, changed: i64, refused: Option<&str>) -> Result<()> {
        if !self.add_to_audit(entry.id, entry, changed, refused).await? {
            self.add_to_audit(self.clock.new_id(), entry, changed, refused).await?;
        }
        Ok(())
    }

    /// `false` if the id is that of another change.
    async fn add_to_audit(
        &mut self,
        id: Uuid,
        entry: &NewAudit<'_>,
        changed: i64,
        refused: Option<&str>,
    ) -> Result<bool> {
        let now = self.clock.now();
        let stored = on_conn!(self, |conn| sqlx::query(
            "insert into usher_audit (id, at, who, door, action, subject, changed, refused)
             values ($1, $2, $3, $4, $5, $6, $7, $8)
             on conflict (id) do update set changed = usher_audit.changed + excluded.changed
                 where usher_audit.who = excluded.who and usher_audit.action = excluded.action
                     and usher_audit.subject = excluded.subject and usher_audit.refused is null"
        )
        .bind(id)
        .bind(now)
        .bind(entry.who)
        .bind(entry.door.as_str())
        .bind(entry.action)
        .bind(entry.subject)
        .bind(changed)
        .bind(refused)
        .execute(conn)
        .await?
        .rows_affected());
        Ok(stored == 1)
    }

    /// The audit, newest first; the next page is below an id.
    pub async fn audit(&mut self, below: Option<Uuid>, limit: u32) -> Result<Vec<AuditView>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select id, at, who, door, action, subject, changed, refused from usher_audit
             where id < $1 order by id desc limit $2"
        )
        .bind(below.unwrap_or(Uuid::max()))
        .bind(i64::from(limit))
        .fetch_all(conn)
        .await)?)
    }

    /// Deletes entries of before a time; returns how many.
    pub async fn drop_audit(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        // The first UUIDv7 of that time: 48 bits of milliseconds.
        let first = Uuid::from_u128(u128::from(before.timestamp_millis().unsigned_abs()) << 80);
        Ok(on_conn!(self, |conn| sqlx::query(
            "delete from usher_audit where id in (select id from usher_audit where id < $1 order by id limit $2)"
        )
        .bind(first)
        .bind(i64::from(limit))
        .execute(conn)
        .await?
        .rows_affected()))
    }
}
