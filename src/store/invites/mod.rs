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
macro_rules! columns {
    ($prefix:literal) => {
        columns!(@ $prefix id kind organization_id project_id email email_key role status acceptance invited_by
            accepted_by accepted_by_clerk_id locale message redirect_url token_version invited_at expires_at flagged_at flagged_for dismissed_at
            accepted_at declined_at revoked_at expired_at created_at updated_at)
    };
    (@ $prefix:literal $first:ident $($column:ident)*) => {
        concat!($prefix, stringify!($first) $(, ", ", $prefix, stringify!($column))*)
    };
}

const INVITE: &str = columns!("");
/// For statements in which another table has columns of the same names.
const INVITE_ITSELF: &str = columns!("invites.");
pub(super) const INVITE_OF_I: &str = columns!("i.");

impl Tx {
    pub async fn invite(&mut self, id: Uuid) -> Result<Option<Invite>> {
        let text = format!("select {INVITE} from invites where id = $1");
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .fetch_optional(conn)
            .await)?)
    }
}
