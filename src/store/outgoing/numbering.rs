//! Numbers: given by one process at a time, to events whose transactions have committed.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::EventType;
use crate::store::rows::{Row as _, row, sql, to_json};
use crate::store::{Dialect, Result, Tx, on_conn};

/// An event without a number.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Unnumbered {
    pub seq: i64,
    pub id: Uuid,
    #[sqlx(try_from = "String")]
    pub event_type: EventType,
    pub at: DateTime<Utc>,
    pub invite_id: Option<Uuid>,
    pub changes: String,
}

/// What the body needs of an event that is not about an invite.
#[derive(Debug, Clone, Default, sqlx::FromRow)]
pub struct EventTarget {
    pub seq: i64,
    /// The organization, or the project's.
    pub organization_id: Option<Uuid>,
    pub organization_name: Option<String>,
    /// How the app spells the organization's id, if it is no UUID.
    pub organization_spelling: Option<String>,
    pub project_id: Option<Uuid>,
    pub project_name: Option<String>,
    pub project_spelling: Option<String>,
    pub admin_id: Option<Uuid>,
    pub clerk_user_id: Option<String>,
    pub email: Option<String>,
    /// The member's role now.
    pub role: Option<String>,
}

row! {
    /// An event with its number and its body.
    #[derive(Debug, Clone)]
    pub struct Numbered {
        pub seq: i64,
        pub number: i64,
        pub organization: Option<Uuid>,
        pub body: String,
    }
}

impl Tx {
    /// The last number of the feed, which stays locked until this transaction ends; `None` if another one has it.
    pub async fn lock_feed(&mut self) -> Result<Option<i64>> {
        let lock = match self.dialect() {
            Dialect::Postgres => "for update skip locked",
            Dialect::Sqlite => "", // It has one writer.
        };
        let text = format!("select last_number from usher_event_feed {lock}");
        Ok(on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .fetch_optional(conn)
            .await)?)
    }

    /// The oldest events without a number, in the order in which they were written.
    pub async fn unnumbered_events(&mut self, limit: u32) -> Result<Vec<Unnumbered>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select seq, id, type as event_type, at, invite_id, changes from usher_outgoing_events
             where number is null order by seq limit $1"
        )
        .bind(i64::from(limit))
        .fetch_all(conn)
        .await)?)
    }

    /// What the events up to `last_seq` that have no number and are not about invites are about. To be called after the
    /// invites were read: memberships are locked after invites, also by those who only read, or a migration that changes
    /// both tables would not get its locks.
    pub async fn event_targets(&mut self, last_seq: i64) -> Result<Vec<EventTarget>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select e.seq, coalesce(o.id, e.organization_id) as organization_id, o.name as organization_name,
                 (select s.app_id from usher_app_ids s where s.key = o.id) as organization_spelling,
                 (select s.app_id from usher_app_ids s where s.key = p.id) as project_spelling,
                 e.project_id, p.name as project_name, e.admin_id, a.external_id as clerk_user_id, a.email,
                 case when e.project_id is null then m.role else pm.role end as role
             from usher_outgoing_events e
             left join usher_projects p on p.id = e.project_id
             left join usher_organizations o on o.id = coalesce(p.organization_id, e.organization_id)
             left join usher_admins a on a.id = e.admin_id
             left join organization_users m on m.organization_id = e.organization_id and m.admin_id = e.admin_id
                 and m.deleted_at is null
             left join project_admins pm on pm.project_id = e.project_id and pm.admin_id = e.admin_id
                 and pm.deleted_at is null
             where e.number is null and e.invite_id is null and e.seq <= $1"
        )
        .bind(last_seq)
        .fetch_all(conn)
        .await)?)
    }

    /// Stores numbers and bodies, and the last number.
    pub async fn number_events(&mut self, numbered: &[Numbered]) -> Result<()> {
        let Some(last) = numbered.last() else { return Ok(()) };
        let source = Numbered::unfold(self.dialect());
        let text = format!(
            "update usher_outgoing_events set number = r.number, organization_id = r.organization, body = r.body
             from {source} where usher_outgoing_events.seq = r.seq"
        );
        let rows = to_json(numbered)?;
        on_conn!(self, |conn| {
            sqlx::query(sql(text)).bind(rows).execute(&mut *conn).await?;
            sqlx::query("update usher_event_feed set last_number = $1")
                .bind(last.number)
                .execute(conn)
                .await
                .map(drop)
        })?;
        self.numbered = true;
        Ok(())
    }
}
