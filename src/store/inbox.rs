//! The inbox: every event that Clerk was told usher has taken.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::queue::UNCOUNTED;
use super::rows::{Time, Type, and_among, checked, of_rows, sql, to_json, unfold};
use super::{Conn, Queue, Result, Tx, on_conn};
use crate::names::named;

/// An event as it arrived, its signature verified.
#[derive(Clone)]
pub struct NewEvent {
    /// The message id, the same over retries and replays.
    pub svix_id: String,
    /// `user.created` and so on.
    pub event_type: String,
    /// The body as it was signed.
    pub payload: String,
}

/// An event in the inbox that still waits for its effect.
#[derive(Clone, sqlx::FromRow)]
pub struct Event {
    /// The message id.
    pub svix_id: String,
    /// `user.created` and so on.
    pub event_type: String,
    /// The body as it was signed.
    pub payload: Option<String>,
    /// When it was stored.
    pub received_at: DateTime<Utc>,
}

/// What came of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The message id.
    pub svix_id: String,
    /// What came of it, or why it could not be processed: then it stays in the inbox and can be run again.
    pub outcome: Result<&'static str, String>,
}

named! {
    /// Where an event stands.
    EventState("event state") {
        /// Its job has not come so far.
        Waiting = "waiting",
        /// Its job gave up; it can be replayed.
        Failed = "failed",
        /// Its effect is there.
        Processed = "processed",
    }
}

impl EventState {
    fn condition(self) -> &'static str {
        match self {
            Self::Waiting => "processed_at is null and error is null",
            Self::Failed => "processed_at is null and error is not null",
            Self::Processed => "processed_at is not null",
        }
    }
}

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// In this state.
    pub state: Option<EventState>,
    /// Of this type.
    pub event_type: Option<String>,
    /// Received before.
    pub before: Option<DateTime<Utc>>,
}

/// An event as a person looks at it.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct EventView {
    /// The message id.
    pub svix_id: String,
    /// `user.created` and so on.
    pub event_type: String,
    /// Where it stands.
    #[sqlx(try_from = "String")]
    pub state: EventState,
    /// When it was stored.
    pub received_at: DateTime<Utc>,
    /// When its effect was committed.
    pub processed_at: Option<DateTime<Utc>>,
    /// What came of it.
    pub outcome: Option<String>,
    /// Why it could not be processed so far.
    pub error: Option<String>,
}

const EVENT_VIEW: &str = "svix_id, event_type, received_at, processed_at, outcome, error,
    case when processed_at is not null then 'processed' when error is not null then 'failed' else 'waiting' end as state";

/// Rows of an insert on SQLite: more of them gain little, and each number of rows is a statement to keep.
const ROWS_IN_A_STATEMENT: usize = 16;

/// What `process-clerk-event` carries.
#[derive(Serialize)]
struct Payload<'a> {
    svix_id: &'a str,
}

#[derive(Serialize)]
struct FinishedRow<'a> {
    svix_id: &'a str,
    processed_at: Option<Time>,
    outcome: Option<&'a str>,
    error: Option<&'a str>,
}

impl Tx {
    /// Stores events and enqueues the processing of those that are new; returns the ids of the new ones.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn receive_events(&mut self, events: &[NewEvent]) -> Result<HashSet<String>> {
        // By id: one order for everybody who writes events, so that groups with ids in common can't deadlock.
        let mut unique: BTreeMap<&str, &NewEvent> = BTreeMap::new();
        for event in events {
            unique.entry(&event.svix_id).or_insert(event);
        }
        let now = self.clock.now();
        let is_postgres = matches!(self.conn, Conn::Postgres(_));
        if is_postgres {
            self.receive_in_one_statement(unique.into_values().collect(), now).await
        } else {
            self.receive_in_some_statements(unique.into_values().collect(), now)
                .await
        }
    }

    /// Postgres: a round trip costs more than the work, so inbox rows and jobs go in one statement.
    async fn receive_in_one_statement(
        &mut self,
        events: Vec<&NewEvent>,
        now: DateTime<Utc>,
    ) -> Result<HashSet<String>> {
        let mut svix_ids = Vec::with_capacity(events.len());
        let mut event_types = Vec::with_capacity(events.len());
        let mut payloads = Vec::with_capacity(events.len());
        let mut job_ids = Vec::with_capacity(events.len());
        for event in events {
            svix_ids.push(event.svix_id.as_str());
            event_types.push(event.event_type.as_str());
            payloads.push(event.payload.as_str());
            job_ids.push(self.new_job_id());
        }
        let Conn::Postgres(conn) = &mut self.conn else {
            return Ok(HashSet::new());
        };
        let new: Vec<String> = sqlx::query_scalar(
            "with arrived as (
                 select * from unnest($1::text[], $2::text[], $3::text[], $4::text[])
                     as arrived(svix_id, event_type, payload, job_id)
             ), fresh as (
                 insert into usher_events (svix_id, event_type, payload, received_at)
                 select svix_id, event_type, payload, $5 from arrived
                 on conflict (svix_id) do nothing returning svix_id
             ), queued as (
                 insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
                 select job_id, $6, convert_to(json_build_object('svix_id', svix_id)::text, 'UTF8'),
                     'Pending', 0, $7, now(), 0
                 from arrived join fresh using (svix_id)
             )
             select svix_id from fresh",
        )
        .bind(svix_ids)
        .bind(event_types)
        .bind(payloads)
        .bind(job_ids)
        .bind(now)
        .bind(Queue::ProcessClerkEvent.as_str())
        .bind(UNCOUNTED)
        .fetch_all(&mut **conn)
        .await?;
        if !new.is_empty() {
            self.enqueued.push(Queue::ProcessClerkEvent);
        }
        Ok(new.into_iter().collect())
    }

    /// SQLite: some rows in each statement, since every statement is handed to sqlx's thread and back. Copying the
    /// payloads through JSON would cost more.
    async fn receive_in_some_statements(
        &mut self,
        events: Vec<&NewEvent>,
        now: DateTime<Utc>,
    ) -> Result<HashSet<String>> {
        let mut new = HashSet::with_capacity(events.len());
        for events in events.chunks(ROWS_IN_A_STATEMENT) {
            let mut text = String::from("insert into usher_events (received_at, svix_id, event_type, payload) values ");
            for row in 0..events.len() {
                let comma = if row == 0 { "" } else { ", " };
                let first = 2 + 3 * row;
                text.push_str(&format!("{comma}($1, ${first}, ${}, ${})", first + 1, first + 2));
            }
            text.push_str(" on conflict (svix_id) do nothing returning svix_id");
            let stored: Vec<String> = on_conn!(self, |conn| {
                let mut insert = sqlx::query_scalar(sql(text)).bind(now);
                for event in events {
                    insert = insert.bind(&event.svix_id).bind(&event.event_type).bind(&event.payload);
                }
                insert.fetch_all(conn).await
            })?;
            new.extend(stored);
        }
        let payloads: Vec<_> = new.iter().map(|svix_id| Payload { svix_id }).collect();
        self.enqueue(Queue::ProcessClerkEvent, &payloads).await?;
        Ok(new)
    }

    /// Those of these events that still wait for their effect, oldest first.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn unprocessed_events(&mut self, svix_ids: &[&str]) -> Result<Vec<Event>> {
        let ids: Vec<_> = svix_ids.iter().map(|svix_id| Payload { svix_id }).collect();
        let rows = unfold(self.dialect(), &[("svix_id", Type::Text)]);
        let text = format!(
            "select svix_id, event_type, payload, received_at from usher_events
             where processed_at is null and {} order by received_at, svix_id",
            of_rows(self.dialect(), "svix_id", "svix_id", &rows)
        );
        let ids = to_json(&ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Notes what came of events. What failed stays unprocessed, with its error.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn finish_events(&mut self, finished: &[Finished]) -> Result<()> {
        if finished.is_empty() {
            return Ok(());
        }
        let now = Time(self.clock.now());
        let rows: Vec<_> = finished
            .iter()
            .map(|event| FinishedRow {
                svix_id: &event.svix_id,
                processed_at: event.outcome.is_ok().then_some(now),
                outcome: event.outcome.as_ref().ok().copied(),
                error: event.outcome.as_ref().err().map(String::as_str),
            })
            .collect();
        let source = unfold(
            self.dialect(),
            &[
                ("svix_id", Type::Text),
                ("processed_at", Type::Time),
                ("outcome", Type::Text),
                ("error", Type::Text),
            ],
        );
        let text = format!(
            "update usher_events set processed_at = r.processed_at, outcome = r.outcome, error = r.error
             from {source} where usher_events.svix_id = r.svix_id and {} {}",
            checked("usher_events.processed_at is null"),
            and_among(
                self.dialect(),
                "usher_events.svix_id",
                &format!("select r.svix_id from {source}")
            )
        );
        let rows = to_json(&rows)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Events, newest first; their payloads stay where they are.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn events(&mut self, filter: &EventFilter, limit: u32) -> Result<Vec<EventView>> {
        let state = match filter.state {
            None => "true",
            Some(state) => state.condition(),
        };
        let text = format!(
            "select {EVENT_VIEW} from usher_events
             where {state} and received_at < $1 and ($2 = '' or event_type = $2)
             order by received_at desc, svix_id limit {limit}"
        );
        let before = filter.before.unwrap_or_else(|| self.clock.now() + TimeDelta::days(1));
        let event_type = filter.event_type.clone().unwrap_or_default();
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(before)
            .bind(event_type)
            .fetch_all(conn)
            .await)?)
    }

    /// One event.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn event(&mut self, svix_id: &str) -> Result<Option<EventView>> {
        let text = format!("select {EVENT_VIEW} from usher_events where svix_id = $1");
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(svix_id)
            .fetch_optional(conn)
            .await)?)
    }

    /// The body of an event as it was signed, as long as it is kept.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn event_payload(&mut self, svix_id: &str) -> Result<Option<String>> {
        let payload: Option<Option<String>> = on_conn!(self, |conn| sqlx::query_scalar(
            "select payload from usher_events where svix_id = $1"
        )
        .bind(svix_id)
        .fetch_optional(conn)
        .await)?;
        Ok(payload.flatten())
    }

    /// Enqueues an event again that could not be processed; `false` if there is none of this id waiting.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn replay_event(&mut self, svix_id: &str) -> Result<bool> {
        let found = on_conn!(self, |conn| sqlx::query(
            "update usher_events set error = null where svix_id = $1 and processed_at is null"
        )
        .bind(svix_id)
        .execute(conn)
        .await?
        .rows_affected());
        if found == 0 {
            return Ok(false);
        }
        self.enqueue(Queue::ProcessClerkEvent, &[Payload { svix_id }]).await?;
        Ok(true)
    }
}
