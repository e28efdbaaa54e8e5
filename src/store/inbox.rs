//! The inbox: every event that usher accepted from Clerk.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgPool, SqlitePool};

use super::jobs::state::NEW;
use super::queue::{UNCOUNTED, new_job_id};
use super::rows::{Row as _, TextRow, Time, and_among, checked, of_texts, row, sql, texts_json, to_json};
use super::{PendingWrite, Pool, Queue, Result, Store, Tx, on_conn};
use crate::names::named;

/// A received event with a verified signature.
#[derive(Clone)]
pub struct NewEvent {
    /// The message id; the same for retries and replays.
    pub svix_id: String,
    /// Such as `user.created`.
    pub event_type: String,
    /// The body as it was signed.
    pub payload: String,
}

/// An event in the inbox that is not processed yet.
#[derive(Clone, sqlx::FromRow)]
pub struct Event {
    pub svix_id: String,
    /// Such as `user.created`.
    pub event_type: String,
    /// The body as it was signed.
    pub payload: Option<String>,
    pub received_at: DateTime<Utc>,
}

/// The result of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub svix_id: String,
    /// The outcome, or the error: then the event stays in the inbox and can be replayed.
    pub outcome: Result<&'static str, String>,
}

named! {
    /// The state of an event.
    EventState("event state") {
        /// Its job has not finished yet.
        Waiting = "waiting",
        /// Its job gave up; it can be replayed.
        Failed = "failed",
        /// Its effect is committed.
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

/// Of processed events: those whose payload is still kept, and that were not discarded for good.
const REPLAYABLE: &str = "payload is not null and outcome <> 'discarded by hand'";

/// The types that the index of rare types leaves out.
const FREQUENT_TYPES: [&str; 3] = ["session.created", "user.created", "user.updated"];

#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub state: Option<EventState>,
    pub event_type: Option<String>,
    /// Received at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Received before this time.
    pub before: Option<DateTime<Utc>>,
    /// Only processed events that can be processed again.
    pub replayable: bool,
    /// The next page of a list: older than this event.
    pub below: Option<EventKey>,
    /// Newer than this event.
    pub beyond: Option<EventKey>,
}

/// What events are listed by.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct EventKey {
    pub received_at: DateTime<Utc>,
    pub svix_id: String,
}

impl EventFilter {
    /// The conditions, with parameters as `filtered!` binds them: `$1` and `$2` the earliest and the latest time, `$3` the
    /// type, `$4` and `$5` the event that all are below, `$6` and `$7` the one that all are beyond.
    fn conditions(&self) -> String {
        let mut text = self.state.map_or("true", EventState::condition).to_owned();
        if self.replayable {
            text.push_str(" and ");
            text.push_str(REPLAYABLE);
        }
        let event_type = self.event_type.as_deref();
        if event_type.is_some_and(|event_type| !FREQUENT_TYPES.contains(&event_type)) {
            // As in the condition of the partial index, which no planner derives from a parameter.
            let frequent: Vec<String> = FREQUENT_TYPES.iter().map(|name| format!("'{name}'")).collect();
            text.push_str(&format!(" and event_type not in ({})", frequent.join(", ")));
        }
        for (is_asked, condition, unused) in [
            (self.since.is_some(), "received_at >= $1", "$1 = $1"),
            (self.before.is_some(), "received_at < $2", "$2 = $2"),
            (self.event_type.is_some(), "event_type = $3", "$3 = $3"),
            (
                self.below.is_some(),
                "(received_at, svix_id) < ($4, $5)",
                "$4 = $4 and $5 = $5",
            ),
            (
                self.beyond.is_some(),
                "(received_at, svix_id) > ($6, $7)",
                "$6 = $6 and $7 = $7",
            ),
        ] {
            text.push_str(" and ");
            text.push_str(if is_asked { condition } else { unused });
        }
        text
    }
}

/// Runs one body with a filter's parameters bound.
macro_rules! filtered {
    ($tx:expr, $filter:expr, $query:expr, |$bound:ident, $conn:ident| $body:expr) => {{
        fn parts(key: Option<&EventKey>) -> (DateTime<Utc>, &str) {
            key.map_or_else(Default::default, |key| (key.received_at, key.svix_id.as_str()))
        }
        let (below, beyond) = (parts($filter.below.as_ref()), parts($filter.beyond.as_ref()));
        let (since, before) = ($filter.since.unwrap_or_default(), $filter.before.unwrap_or_default());
        let event_type = $filter.event_type.as_deref().unwrap_or_default();
        on_conn!($tx, |$conn| {
            let times = $query.bind(since).bind(before).bind(event_type);
            let $bound = times.bind(below.0).bind(below.1).bind(beyond.0).bind(beyond.1);
            $body
        })
    }};
}

#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct EventView {
    pub svix_id: String,
    /// Such as `user.created`.
    pub event_type: String,
    #[sqlx(try_from = "String")]
    pub state: EventState,
    pub received_at: DateTime<Utc>,
    /// When its effect was committed.
    pub processed_at: Option<DateTime<Utc>>,
    pub outcome: Option<String>,
    pub error: Option<String>,
}

const EVENT_VIEW: &str = "svix_id, event_type, received_at, processed_at, outcome, error,
    case when processed_at is not null then 'processed' when error is not null then 'failed' else 'waiting' end as state";

/// Rows per insert on SQLite: more rows gain little, and each number of rows is one more prepared statement to keep.
const ROWS_IN_A_STATEMENT: usize = 16;

/// Ends a transaction and confirms it with a last row.
const COMMIT: &str = "commit; select 'committed'";
const COMMITTED: &str = "committed";

/// The payload of `process-clerk-event`.
#[derive(Serialize)]
struct Payload<'a> {
    svix_id: &'a str,
}

row! {
    struct FinishedRow<'a> {
        svix_id: &'a str,
        processed_at: Option<Time>,
        outcome: Option<&'a str>,
        error: Option<&'a str>,
    }
}

impl Store {
    /// Stores events and enqueues a job for each new one, in one durable transaction; returns the ids of the new
    /// events.
    pub async fn receive_events(&self, events: &[NewEvent]) -> Result<HashSet<String>> {
        // Always in the order of ids, so that batches with common ids can't deadlock.
        let mut unique: BTreeMap<&str, &NewEvent> = BTreeMap::new();
        for event in events {
            unique.entry(&event.svix_id).or_insert(event);
        }
        let queued: Vec<QueuedEvent> = unique
            .into_values()
            .map(|event| QueuedEvent {
                event,
                job_id: new_job_id(&self.clock),
            })
            .collect();
        if queued.is_empty() {
            return Ok(HashSet::new());
        }
        let now = self.clock.now();
        let new = match &self.pool {
            Pool::Postgres(pool) => receive_on_postgres(pool, &queued, now).await?,
            Pool::Sqlite { writer, .. } => receive_on_sqlite(writer, &queued, now).await?,
        };
        if !new.is_empty() {
            self.wake.signal(Queue::ProcessClerkEvent);
        }
        Ok(new.into_iter().collect())
    }
}

/// An event, with the id of its job if the event is new.
struct QueuedEvent<'a> {
    event: &'a NewEvent,
    job_id: String,
}

/// One statement for inbox rows, jobs and commit: a round trip costs more than the work.
async fn receive_on_postgres(pool: &PgPool, queued: &[QueuedEvent<'_>], now: DateTime<Utc>) -> Result<Vec<String>> {
    let texts = |field: fn(&NewEvent) -> &str| queued.iter().map(|a| field(a.event)).collect::<Vec<_>>();
    let job_ids: Vec<&str> = queued.iter().map(|a| a.job_id.as_str()).collect();
    let text = format!(
        "with incoming as (
             select * from unnest($1::text[], $2::text[], $3::text[], $4::text[])
                 as incoming(svix_id, event_type, payload, job_id)
         ), fresh as (
             insert into usher_events (svix_id, event_type, payload, received_at)
             select svix_id, event_type, payload, $5 from incoming
             on conflict (svix_id) do nothing returning svix_id
         ), queued as (
             insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
             select job_id, $6, convert_to(json_build_object('svix_id', svix_id)::text, 'UTF8'),
                 {NEW}, 0, $7, now(), 0
             from incoming join fresh using (svix_id)
         )
         select svix_id from fresh"
    );
    Ok(sqlx::query_scalar(sql(text))
        .bind(texts(|event| &event.svix_id))
        .bind(texts(|event| &event.event_type))
        .bind(texts(|event| &event.payload))
        .bind(job_ids)
        .bind(now)
        .bind(Queue::ProcessClerkEvent.stored())
        .bind(UNCOUNTED)
        .fetch_all(pool)
        .await?)
}

/// sqlx passes each SQL text to its own thread and back. So the first text begins the transaction and the last one
/// commits it, and a few events share one text. Copying the payloads through JSON would cost more. The plain way, a
/// transaction of sqlx around the texts, takes a tenth fewer events a second: 12,000 instead of 13,400 at 32 connections.
async fn receive_on_sqlite(writer: &SqlitePool, queued: &[QueuedEvent<'_>], now: DateTime<Utc>) -> Result<Vec<String>> {
    let mut conn = PendingWrite::new(writer.acquire().await?);
    let mut new = Vec::with_capacity(queued.len());
    let chunks = queued.chunks(ROWS_IN_A_STATEMENT);
    let last = chunks.len().saturating_sub(1);
    for (number, chunk) in chunks.enumerate() {
        let begin = if number == 0 { "begin immediate;" } else { "" };
        let commit = if number == last { COMMIT } else { "" };
        let text = format!("{begin} {} {commit}", insertion_of(chunk.len()));
        let mut insertion = sqlx::query_scalar(sql(text))
            .bind(now)
            .bind(Queue::ProcessClerkEvent.stored())
            .bind(UNCOUNTED);
        for QueuedEvent { event, job_id } in chunk {
            insertion = insertion
                .bind(&event.svix_id)
                .bind(&event.event_type)
                .bind(&event.payload)
                .bind(job_id);
        }
        let rows: Vec<String> = insertion.fetch_all(conn.get()).await?;
        new.extend(rows);
    }
    // If sqlx's thread dies, the rows end as if there were no more; so the last row must confirm the commit.
    if new.pop().as_deref() != Some(COMMITTED) {
        return Err(sqlx::Error::WorkerCrashed.into());
    }
    conn.settle();
    Ok(new)
}

/// The jobs are inserted first, because after the insert of its row an event no longer looks new.
fn insertion_of(events: usize) -> String {
    let first = |row: usize| 4 + 4 * row;
    let (mut jobs, mut rows) = (Vec::with_capacity(events), Vec::with_capacity(events));
    for row in 0..events {
        let (id, event_type, payload, job_id) = (first(row), first(row) + 1, first(row) + 2, first(row) + 3);
        jobs.push(format!("(${job_id}, ${id})"));
        rows.push(format!("($1, ${id}, ${event_type}, ${payload})"));
    }
    format!(
        "with incoming(job_id, svix_id) as (values {})
         insert into Jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, metadata)
         select job_id, $2, cast(json_object('svix_id', svix_id) as blob), {NEW}, 0, $3, unixepoch(), 0, '{{}}'
         from incoming where not exists (select 1 from usher_events e where e.svix_id = incoming.svix_id);
         insert into usher_events (received_at, svix_id, event_type, payload) values {}
         on conflict (svix_id) do nothing returning svix_id;",
        jobs.join(", "),
        rows.join(", ")
    )
}

impl Tx {
    /// The events among these that are not processed yet, oldest first.
    pub async fn unprocessed_events(&mut self, svix_ids: &[&str]) -> Result<Vec<Event>> {
        let text = format!(
            "select svix_id, event_type, payload, received_at from usher_events
             where processed_at is null and {} order by received_at, svix_id",
            of_texts(self.dialect(), "svix_id")
        );
        let ids = texts_json(svix_ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Stores the results of events. A failed event stays unprocessed, with its error.
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
        let source = FinishedRow::unfold(self.dialect());
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

    /// Events, newest first, without their payloads.
    pub async fn events(&mut self, filter: &EventFilter, limit: u32) -> Result<Vec<EventView>> {
        let text = format!(
            "select {EVENT_VIEW} from usher_events where {}
             order by received_at desc, svix_id desc limit {limit}",
            filter.conditions()
        );
        Ok(filtered!(self, filter, sqlx::query_as(sql(text)), |query, conn| query
            .fetch_all(conn)
            .await)?)
    }

    pub async fn count_events(&mut self, filter: &EventFilter) -> Result<u64> {
        let text = format!("select count(*) from usher_events where {}", filter.conditions());
        let count: i64 = filtered!(self, filter, sqlx::query_scalar(sql(text)), |query, conn| query
            .fetch_one(conn)
            .await)?;
        Ok(count.unsigned_abs())
    }

    /// The keys of events, oldest first.
    pub async fn event_keys(&mut self, filter: &EventFilter, limit: u32) -> Result<Vec<EventKey>> {
        let text = format!(
            "select received_at, svix_id from usher_events where {} order by received_at, svix_id limit {limit}",
            filter.conditions()
        );
        Ok(filtered!(self, filter, sqlx::query_as(sql(text)), |query, conn| query
            .fetch_all(conn)
            .await)?)
    }

    pub async fn event(&mut self, svix_id: &str) -> Result<Option<EventView>> {
        let text = format!("select {EVENT_VIEW} from usher_events where svix_id = $1");
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(svix_id)
            .fetch_optional(conn)
            .await)?)
    }

    /// The body of an event as it was signed, as long as it is kept.
    pub async fn event_payload(&mut self, svix_id: &str) -> Result<Option<String>> {
        let payload: Option<Option<String>> = on_conn!(self, |conn| sqlx::query_scalar(
            "select payload from usher_events where svix_id = $1"
        )
        .bind(svix_id)
        .fetch_optional(conn)
        .await)?;
        Ok(payload.flatten())
    }

    /// Replays events, also processed ones whose payload is still kept: their dead jobs become due again, or they get a
    /// new job if there is none. Returns the ids of the events that are waiting now.
    pub async fn replay_events(&mut self, svix_ids: &[&str]) -> Result<Vec<String>> {
        let again = "error = null, processed_at = null, outcome = null";
        let waiting = self
            .change_events(svix_ids, again, &format!("(processed_at is null or {REPLAYABLE})"))
            .await?;
        let dead = self.dead_jobs_about_events(&waiting).await?;
        let jobs: Vec<String> = dead.iter().map(|(job, _)| job.clone()).collect();
        let retried: HashSet<String> = self.retry_jobs(&jobs).await?.into_iter().collect();
        let has_job: HashSet<&String> = dead
            .iter()
            .filter(|(job, _)| retried.contains(job))
            .map(|(_, event)| event)
            .collect();
        let without: Vec<_> = waiting
            .iter()
            .filter(|event| !has_job.contains(event))
            .map(|svix_id| Payload { svix_id })
            .collect();
        self.enqueue(Queue::ProcessClerkEvent, &without).await?;
        Ok(waiting)
    }

    /// Discards failed events for good, without an effect, and ends their dead jobs. Returns the ids of the discarded
    /// events.
    pub async fn discard_events(&mut self, svix_ids: &[&str]) -> Result<Vec<String>> {
        let discarded = self
            .change_events(
                svix_ids,
                "processed_at = $2, outcome = 'discarded by hand'",
                EventState::Failed.condition(),
            )
            .await?;
        let dead = self.dead_jobs_about_events(&discarded).await?;
        let jobs: Vec<String> = dead.into_iter().map(|(job, _)| job).collect();
        self.end_dead_jobs(&jobs).await?;
        Ok(discarded)
    }

    async fn change_events(&mut self, svix_ids: &[&str], set: &str, condition: &str) -> Result<Vec<String>> {
        let text = format!(
            "update usher_events set {set}
             where $2 = $2 and {condition} and svix_id in (select r.text from {}) returning svix_id",
            TextRow::unfold(self.dialect())
        );
        let (ids, now) = (texts_json(svix_ids)?, self.clock.now());
        Ok(on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(ids)
            .bind(now)
            .fetch_all(conn)
            .await)?)
    }

    /// How many events have failed and wait for an operator.
    pub async fn count_failed_events(&mut self) -> Result<u64> {
        let text = format!(
            "select count(*) from usher_events where {}",
            EventState::Failed.condition()
        );
        let count: i64 = on_conn!(self, |conn| sqlx::query_scalar(sql(text)).fetch_one(conn).await)?;
        Ok(count.unsigned_abs())
    }
}
