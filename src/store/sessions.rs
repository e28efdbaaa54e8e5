//! The signed-in sessions, as far as the webhooks tell.

use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::HashSet;
use uuid::Uuid;

use super::people::{PERSON_ID, person_ids};
use super::rows::{Time, Type, among, in_order_of_id, sql, to_json, unfold};
use super::{Result, Tx, on_conn};

#[derive(Debug, Clone)]
pub struct SessionStart {
    /// `sess_…`
    pub clerk_session_id: String,
    pub person_id: Uuid,
    pub started_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct SessionRow<'a> {
    session_id: &'a str,
    person_id: Option<Uuid>,
    started_at: Option<Time>,
}

const COLUMNS: &[(&str, Type)] = &[
    ("session_id", Type::Text),
    ("person_id", Type::Uuid),
    ("started_at", Type::Time),
];

impl Tx {
    /// Stores started sessions; returns the ids of the active ones, because a session's end may have arrived first.
    pub async fn start_sessions(&mut self, starts: &[SessionStart]) -> Result<HashSet<String>> {
        if starts.is_empty() {
            return Ok(HashSet::new());
        }
        let mut rows: Vec<_> = starts
            .iter()
            .map(|start| SessionRow {
                session_id: &start.clerk_session_id,
                person_id: Some(start.person_id),
                started_at: Some(Time(start.started_at)),
            })
            .collect();
        rows.sort_by_key(|row| row.session_id);
        let source = unfold(self.dialect(), COLUMNS);
        let text = format!(
            "insert into usher_sessions (clerk_session_id, person_id, status, started_at)
             select r.session_id, r.person_id, 'active', r.started_at from {source} where true
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
            .map(|&(session_id, person_id)| SessionRow {
                session_id,
                person_id,
                started_at: None,
            })
            .collect();
        rows.sort_by_key(|row| row.session_id);
        let source = unfold(self.dialect(), COLUMNS);
        let text = format!(
            "insert into usher_sessions (clerk_session_id, person_id, status, ended_at)
             select r.session_id, r.person_id, 'ended', $2 from {source} where true
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
        let rows = unfold(self.dialect(), PERSON_ID);
        let text = format!(
            "update invites set flagged_at = null, updated_at = $2
             where status = 'pending' and {} and not exists (
                 select 1 from usher_sessions s where s.person_id = invites.flagged_for and s.status = 'active')",
            among(
                self.dialect(),
                "id",
                &format!(
                    "select id from invites where status = 'pending' and flagged_at is not null
                         and flagged_for in (select r.person_id from {rows}) {}",
                    in_order_of_id(self.dialect())
                )
            )
        );
        let people = person_ids(people)?;
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
