//! The signed-in sessions, as far as the webhooks tell.

use chrono::{DateTime, Utc};
use std::collections::HashSet;
use uuid::Uuid;

use super::rows::{IdRow, Row as _, Time, among, ids_json, in_order_of_id, row, sql, to_json};
use super::{Result, Tx, on_conn};

#[derive(Debug, Clone)]
pub struct SessionStart {
    /// `sess_…`
    pub clerk_session_id: String,
    pub person_id: Uuid,
    pub started_at: DateTime<Utc>,
}

row! {
    struct SessionRow<'a> {
        clerk_session_id: &'a str,
        person_id: Option<Uuid>,
        started_at: Option<Time>,
    }
}

impl Tx {
    /// Stores started sessions; returns the ids of the active ones, because a session's end may have arrived first.
    pub async fn start_sessions(&mut self, starts: &[SessionStart]) -> Result<HashSet<String>> {
        if starts.is_empty() {
            return Ok(HashSet::new());
        }
        let mut rows: Vec<_> = starts
            .iter()
            .map(|start| SessionRow {
                clerk_session_id: &start.clerk_session_id,
                person_id: Some(start.person_id),
                started_at: Some(Time(start.started_at)),
            })
            .collect();
        rows.sort_by_key(|row| row.clerk_session_id);
        let (columns, source) = (SessionRow::columns(), SessionRow::unfold(self.dialect()));
        let text = format!(
            "insert into usher_sessions ({columns}, status) select r.*, 'active' from {source} where true
             on conflict (clerk_session_id) do update set person_id = excluded.person_id
             returning clerk_session_id, status"
        );
        let rows = to_json(&rows)?;
        let sessions: Vec<(String, String)> =
            on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(rows).fetch_all(conn).await)?;
        Ok(sessions
            .into_iter()
            .filter(|(_, status)| status == "active")
            .map(|(id, _)| id)
            .collect())
    }

    /// Stores the end of sessions, with their person if known.
    pub async fn end_sessions(&mut self, ends: &[(&str, Option<Uuid>)]) -> Result<()> {
        if ends.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<_> = ends
            .iter()
            .map(|&(clerk_session_id, person_id)| SessionRow {
                clerk_session_id,
                person_id,
                started_at: None,
            })
            .collect();
        rows.sort_by_key(|row| row.clerk_session_id);
        let (columns, source) = (SessionRow::columns(), SessionRow::unfold(self.dialect()));
        let text = format!(
            "insert into usher_sessions ({columns}, status, ended_at) select r.*, 'ended', $2 from {source} where true
             on conflict (clerk_session_id) do update set status = 'ended',
                 ended_at = coalesce(usher_sessions.ended_at, excluded.ended_at),
                 person_id = coalesce(usher_sessions.person_id, excluded.person_id)"
        );
        let rows = to_json(&rows)?;
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Hides the banner for the people among these without an active session.
    pub async fn lower_flags_of_the_signed_out(&mut self, people: &[Uuid]) -> Result<()> {
        if people.is_empty() {
            return Ok(());
        }
        let rows = IdRow::unfold(self.dialect());
        let text = format!(
            "update invites set flagged_at = null, updated_at = $2
             where status = 'pending' and {} and not exists (
                 select 1 from usher_sessions s where s.person_id = invites.flagged_for and s.status = 'active')",
            among(
                self.dialect(),
                "id",
                &format!(
                    "select id from invites where status = 'pending' and flagged_at is not null
                         and flagged_for in (select r.id from {rows}) {}",
                    in_order_of_id(self.dialect())
                )
            )
        );
        let people = ids_json(people)?;
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(people)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }
}
