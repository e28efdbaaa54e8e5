//! Invites: created, refreshed, matched, answered, reminded of, listed. Every change of state is one guarded update.

mod answer;
mod create;
mod expiry;
mod facts;
mod list;
mod matching;
mod remind;

use uuid::Uuid;

use super::rows::sql;
use super::{Result, Tx, on_conn};
use crate::invites::Invite;
pub use create::{NewInvite, Refresh};
pub use facts::InviterAt;
pub(super) use facts::accept_facts;
pub use list::InviteView;
pub use matching::{InviteCandidate, OpenInvite};
pub use remind::{Remindable, ReminderPlan, Unplanned};

/// The columns of [`Invite`], each with a prefix. `*` would break prepared statements when a migration adds a column.
pub(super) fn invite_columns(prefix: &str) -> String {
    let names: Vec<String> = Invite::columns().map(|name| format!("{prefix}{name}")).collect();
    names.join(", ")
}

impl Tx {
    pub async fn invite(&mut self, id: Uuid) -> Result<Option<Invite>> {
        let text = format!("select {} from invites where id = $1", invite_columns(""));
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .fetch_optional(conn)
            .await)?)
    }
}
