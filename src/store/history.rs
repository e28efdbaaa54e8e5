//! Invite events: written in the transaction that causes them, counted after its commit.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::rows::{Row as _, Time, ids_json, of_ids, row, sql, to_json};
use super::{Result, Tx, on_conn};
use crate::invites::accept::Obstacle;
use crate::invites::matching;
use crate::metrics::{self, InviteEvent};

/// An event of an invite's history.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct HistoryEntry {
    #[sqlx(try_from = "String")]
    pub event: InviteEvent,
    pub at: DateTime<Utc>,
    /// The id of Clerk's event or of the request that caused it.
    pub cause: Option<String>,
    /// The reason of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The invite events of one transaction, with their correlation ids.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The correlation id of the whole transaction.
    cause: Option<String>,
    /// The correlation id per person, by both of their ids: events from Clerk share transactions.
    by_person: HashMap<Uuid, String>,
    rows: Vec<NewEntry>,
}

row! {
    #[derive(Debug)]
    struct NewEntry {
        id: Uuid,
        invite_id: Uuid,
        event: InviteEvent,
        at: Time,
        cause: Option<String>,
        reason: Option<Obstacle>,
    }
}

#[derive(sqlx::FromRow)]
struct LastRefusal {
    invite_id: Uuid,
    reason: String,
}

impl History {
    pub(super) fn with_correlation_id(cause: Option<String>) -> Self {
        Self {
            cause,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.rows.truncate(len);
    }

    /// To be called after the commit.
    pub(super) fn count(&self) {
        for &event in InviteEvent::ALL {
            let count = self.rows.iter().filter(|row| row.event == event).count();
            if count > 0 {
                metrics::invites(event, count as u64);
            }
        }
    }
}

impl Tx {
    /// Sets the correlation id of what this transaction does to a person's invites: the id of the event.
    pub fn with_correlation_id(&mut self, person: &matching::Person, svix_id: &str) {
        for id in [person.id, person.admin_id] {
            self.history.by_person.insert(id, svix_id.to_owned());
        }
    }

    /// Records an event of an invite, caused by `person` if one is named.
    pub(super) fn record_event(&mut self, event: InviteEvent, invite_id: Uuid, person: Option<Uuid>) {
        self.record(event, invite_id, person, None);
        self.tell_of_invite(event, invite_id);
    }

    /// Records that an invite can't be accepted by this person.
    pub(super) fn record_refusal(&mut self, invite_id: Uuid, person: Uuid, why: Obstacle) {
        self.record(InviteEvent::Refused, invite_id, Some(person), Some(why));
    }

    /// Removes the events of invites that this transaction created and removed again.
    pub(super) fn forget_events(&mut self, invites: &[Uuid]) {
        self.history.rows.retain(|row| !invites.contains(&row.invite_id));
        self.forget_outgoing(invites);
    }

    fn record(&mut self, event: InviteEvent, invite_id: Uuid, person: Option<Uuid>, reason: Option<Obstacle>) {
        let row = NewEntry {
            id: self.clock.new_id(),
            invite_id,
            event,
            at: Time(self.clock.now()),
            cause: person
                .and_then(|person| self.history.by_person.get(&person))
                .or(self.history.cause.as_ref())
                .cloned(),
            reason,
        };
        self.history.rows.push(row);
    }

    /// The correlation id of an invite's last event in this transaction.
    pub(super) fn cause_of(&self, invite_id: Uuid) -> Option<&str> {
        let last = self.history.rows.iter().rev().find(|row| row.invite_id == invite_id);
        last.map_or(self.history.cause.as_deref(), |row| row.cause.as_deref())
    }

    pub(super) async fn write_history(&mut self) -> Result<()> {
        if self.history.rows.is_empty() {
            return Ok(());
        }
        let (columns, source) = (NewEntry::columns(), NewEntry::unfold(self.dialect()));
        let text = format!("insert into usher_invite_history ({columns}) select r.* from {source}");
        let rows = to_json(&self.history.rows)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Why these invites can't be accepted, for those whose last event is a refusal.
    pub(super) async fn last_refusals(&mut self, invites: &[Uuid]) -> Result<HashMap<Uuid, String>> {
        let theirs = of_ids(self.dialect(), "h.invite_id");
        let text = format!(
            "select h.invite_id, h.reason from usher_invite_history h
             where {theirs} and h.event = 'refused' and h.reason is not null and not exists (
                 select 1 from usher_invite_history n where n.invite_id = h.invite_id and n.at > h.at)"
        );
        let ids = ids_json(invites)?;
        let found: Vec<LastRefusal> = on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(ids).fetch_all(conn).await)?;
        Ok(found.into_iter().map(|last| (last.invite_id, last.reason)).collect())
    }

    /// An invite's events, oldest first.
    pub async fn history_of(&mut self, invite_id: Uuid) -> Result<Vec<HistoryEntry>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select event, at, cause, reason from usher_invite_history where invite_id = $1 order by at, id"
        )
        .bind(invite_id)
        .fetch_all(conn)
        .await)?)
    }
}
