//! The queue for operators: viewing and repairing it. The service may be running, so every change is guarded: jobs that
//! a worker holds are not touched.

use std::collections::HashSet;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::Serialize;
use ulid::Ulid;
use uuid::Uuid;

use super::invites::{INVITE_ID, invite_ids};
use super::rows::{Type, sql, to_json, unfold};
use super::{Conn, Dialect, Queue, Result, Tx, on_conn};
use crate::names::named;

named! {
    /// The state of a job.
    JobState("job state") {
        /// Due, and waiting for a worker.
        Waiting = "waiting",
        /// Not due yet: waiting for a retry, or enqueued for later.
        Scheduled = "scheduled",
        /// Held by a worker.
        Running = "running",
        /// Given up; it waits for an operator.
        Dead = "dead",
        /// Finished.
        Done = "done",
    }
}

#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub ids: Vec<String>,
    pub queue: Option<Queue>,
    /// In one of these states; if empty, in any state but `done`.
    pub states: Vec<JobState>,
    /// Enqueued before this time.
    pub before: Option<DateTime<Utc>>,
    /// With this text in the last error, case-insensitive.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct JobView {
    pub id: String,
    pub queue: String,
    pub state: JobState,
    /// The payload: ids only.
    pub payload: String,
    pub attempts: i32,
    /// When it was enqueued, from its id.
    pub enqueued_at: Option<DateTime<Utc>>,
    pub due_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// The worker that holds it, or held it last.
    pub worker: Option<String>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct FailedAttempt {
    pub job_id: String,
    pub attempt: i32,
    pub failed_at: DateTime<Utc>,
    pub error: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    job_type: String,
    job: Vec<u8>,
    state: String,
    attempts: i32,
    due: i64,
    ended: Option<i64>,
    lock_by: Option<String>,
    result: Option<String>,
}

#[derive(Serialize)]
struct JobId<'a> {
    job_id: &'a str,
}

const JOB_ID: &[(&str, Type)] = &[("job_id", Type::Text)];

fn job_ids(ids: &[String]) -> Result<String> {
    let rows: Vec<_> = ids.iter().map(|job_id| JobId { job_id }).collect();
    to_json(&rows)
}

/// The tables belong to apalis and differ in names and types.
pub(super) struct DialectSql {
    pub table: &'static str,
    pub now: &'static str,
    /// A time as whole Unix seconds.
    pub seconds: fn(&str) -> String,
    pub result: &'static str,
}

pub(super) fn dialect_sql(dialect: Dialect) -> DialectSql {
    match dialect {
        Dialect::Postgres => DialectSql {
            table: "apalis.jobs",
            now: "now()",
            seconds: |column| format!("extract(epoch from {column})::bigint"),
            result: "last_result::text",
        },
        Dialect::Sqlite => DialectSql {
            table: "Jobs",
            now: "unixepoch()",
            seconds: |column| format!("cast({column} as integer)"),
            result: "last_result",
        },
    }
}

/// The same conditions as in [`super::levels`], so that the same indexes are used.
pub(super) fn is_in(state: JobState, now: &str) -> String {
    let open = "(status = 'Pending' or (status = 'Failed' and attempts < max_attempts))";
    match state {
        JobState::Waiting => format!("({open} and run_at <= {now})"),
        JobState::Scheduled => format!("({open} and run_at > {now})"),
        JobState::Running => "status in ('Running', 'Queued')".to_owned(),
        JobState::Dead => "(status = 'Killed' or (status = 'Failed' and attempts >= max_attempts))".to_owned(),
        JobState::Done => "status = 'Done'".to_owned(),
    }
}

impl JobFilter {
    /// The conditions, with parameters as `filtered!` binds them: `$1` queues, `$2` ids, `$3` the id of the time, `$4`
    /// the error.
    fn conditions(&self, dialect: Dialect) -> String {
        let terms = dialect_sql(dialect);
        let mut text = format!(
            "job_type in (select r.queue from {})",
            unfold(dialect, &[("queue", Type::Text)])
        );
        let unfinished = [
            JobState::Waiting,
            JobState::Scheduled,
            JobState::Running,
            JobState::Dead,
        ];
        let states = match self.states.as_slice() {
            [] if !self.ids.is_empty() => &[][..],
            [] => &unfinished[..],
            states => states,
        };
        let asks_for_done = states.contains(&JobState::Done);
        if !states.is_empty() {
            let states: Vec<String> = states.iter().map(|&state| is_in(state, terms.now)).collect();
            let _ = write!(text, " and ({})", states.join(" or "));
        }
        if !states.is_empty() && !asks_for_done {
            // As in the condition of SQLite's partial index: its planner matches each term separately.
            text.push_str(" and status <> 'Done'");
        }
        if !self.ids.is_empty() {
            let rows = unfold(dialect, JOB_ID).replace("$1", "$2");
            let _ = write!(text, " and id in (select r.job_id from {rows})");
        } else {
            text.push_str(" and $2 = $2");
        }
        text.push_str(if self.before.is_some() {
            " and id < $3"
        } else {
            " and $3 = $3"
        });
        let _ = write!(text, " and lower(coalesce({}, '')) like $4 escape '\\'", terms.result);
        text
    }

    fn queues(&self) -> Result<String> {
        #[derive(Serialize)]
        struct QueueRow {
            queue: &'static str,
        }
        let all = match &self.queue {
            Some(queue) => std::slice::from_ref(queue),
            None => Queue::ALL,
        };
        to_json(
            &all.iter()
                .map(|queue| QueueRow { queue: queue.stored() })
                .collect::<Vec<_>>(),
        )
    }

    /// Ids sort by creation time; ids from `before` on are left out.
    fn limit_id(&self) -> String {
        let before = self.before.unwrap_or_default();
        Ulid::from_parts(before.timestamp_millis().unsigned_abs(), 0).to_string()
    }

    fn error_pattern(&self) -> String {
        let words = self.error.as_deref().unwrap_or_default().to_lowercase();
        let escaped = words.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
        format!("%{escaped}%")
    }
}

/// Runs one body with a filter's parameters bound.
macro_rules! filtered {
    ($tx:expr, $filter:expr, $query:expr, |$bound:ident, $conn:ident| $body:expr) => {{
        let (queues, ids) = ($filter.queues()?, job_ids(&$filter.ids)?);
        let (limit, pattern) = ($filter.limit_id(), $filter.error_pattern());
        on_conn!($tx, |$conn| {
            let $bound = $query.bind(queues).bind(ids).bind(limit).bind(pattern);
            $body
        })
    }};
}

impl Tx {
    /// Jobs, newest first.
    pub async fn jobs(&mut self, filter: &JobFilter, limit: u32) -> Result<Vec<JobView>> {
        let dialect = dialect_sql(self.dialect());
        let states: Vec<String> = JobState::ALL
            .iter()
            .map(|&state| format!("when {} then '{state}'", is_in(state, dialect.now)))
            .collect();
        let text = format!(
            "select id, job_type, job, case {} else 'done' end as state, attempts, {} as due, {} as ended, lock_by,
                 {} as result
             from {} where {} order by id desc limit {limit}",
            states.join(" "),
            (dialect.seconds)("run_at"),
            (dialect.seconds)("done_at"),
            dialect.result,
            dialect.table,
            filter.conditions(self.dialect()),
        );
        let rows: Vec<Row> = filtered!(self, filter, sqlx::query_as(sql(text)), |query, conn| query
            .fetch_all(conn)
            .await)?;
        Ok(rows.into_iter().map(JobView::from).collect())
    }

    /// How many jobs each queue has.
    pub async fn count_jobs(&mut self, filter: &JobFilter) -> Result<Vec<(String, i64)>> {
        let text = format!(
            "select job_type, count(*) from {} where {} group by job_type order by job_type",
            dialect_sql(self.dialect()).table,
            filter.conditions(self.dialect()),
        );
        let counts: Vec<(String, i64)> = filtered!(self, filter, sqlx::query_as(sql(text)), |query, conn| query
            .fetch_all(conn)
            .await)?;
        Ok(counts
            .into_iter()
            .map(|(queue, count)| (name_of(queue), count))
            .collect())
    }

    /// The ids of jobs, oldest first.
    pub async fn job_ids(&mut self, filter: &JobFilter) -> Result<Vec<String>> {
        let text = format!(
            "select id from {} where {} order by id",
            dialect_sql(self.dialect()).table,
            filter.conditions(self.dialect()),
        );
        Ok(filtered!(
            self,
            filter,
            sqlx::query_scalar(sql(text)),
            |query, conn| query.fetch_all(conn).await
        )?)
    }

    /// Makes jobs that are dead or wait for a retry due now, with their attempts reset. A failed event is waiting
    /// again; a failed mail is queued again and its address is no longer suppressed. Returns the ids of the retried
    /// jobs.
    pub async fn retry_jobs(&mut self, ids: &[String]) -> Result<Vec<String>> {
        let retried = self
            .change_jobs(ids, &[JobState::Dead, JobState::Scheduled], |dialect| {
                format!(
                    "status = 'Pending', attempts = 0, run_at = {}, lock_by = null, lock_at = null, done_at = null",
                    dialect.now
                )
            })
            .await?;
        self.move_deliveries(&retried, "failed", "status = 'queued', attempts = 0")
            .await?;
        self.release_addresses_of(&retried).await?;
        self.reopen_events(&retried).await?;
        for queue in Queue::ALL {
            self.enqueued.push(*queue);
        }
        Ok(retried.into_iter().map(|job| job.id).collect())
    }

    /// Cancels jobs that no worker holds: their mails are suppressed, their events have failed. Returns the ids of the
    /// cancelled jobs.
    pub async fn cancel_jobs(&mut self, ids: &[String]) -> Result<Vec<String>> {
        let open = [JobState::Waiting, JobState::Scheduled];
        let cancelled = self
            .change_jobs(ids, &open, |dialect| {
                format!(
                    "status = 'Done', done_at = {}, last_result = '{{\"Err\": \"cancelled by hand\"}}'",
                    dialect.now
                )
            })
            .await?;
        self.move_deliveries(&cancelled, "queued", "status = 'suppressed'")
            .await?;
        self.fail_events(&cancelled, "cancelled by hand").await?;
        Ok(cancelled.into_iter().map(|job| job.id).collect())
    }

    async fn change_jobs(
        &mut self,
        ids: &[String],
        states: &[JobState],
        set: impl Fn(&DialectSql) -> String,
    ) -> Result<Vec<Changed>> {
        let dialect = dialect_sql(self.dialect());
        let states: Vec<String> = states.iter().map(|&state| is_in(state, dialect.now)).collect();
        let text = format!(
            "update {} set {} where id in (select r.job_id from {}) and ({}) returning id, job",
            dialect.table,
            set(&dialect),
            unfold(self.dialect(), JOB_ID),
            states.join(" or "),
        );
        let ids = job_ids(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Updates the deliveries of these jobs, if their status is `from`.
    async fn move_deliveries(&mut self, jobs: &[Changed], from: &str, set: &str) -> Result<()> {
        let these = format!("select r.invite_id from {}", unfold(self.dialect(), INVITE_ID));
        let text = format!("update usher_deliveries set {set} where status = '{from}' and id in ({these})");
        self.execute_for(jobs, text).await
    }

    /// Retrying a mail means that it should be sent, as resending it does.
    async fn release_addresses_of(&mut self, jobs: &[Changed]) -> Result<()> {
        let these = format!("select r.invite_id from {}", unfold(self.dialect(), INVITE_ID));
        let text = format!(
            "delete from usher_suppressions where email_key in (
                 select case d.kind
                     when 'accepted_notice' then (select x.email_key from usher_addresses x
                         where x.admin_id = i.invited_by and x.email = d.to_email limit 1)
                     else i.email_key end
                 from usher_deliveries d join invites i on i.id = d.invite_id where d.id in ({these}))"
        );
        self.execute_for(jobs, text).await
    }

    /// Marks the events of these jobs as waiting again.
    async fn reopen_events(&mut self, jobs: &[Changed]) -> Result<()> {
        self.set_error_of_events(jobs, None).await
    }

    /// Marks the events of these jobs as failed, if they were still waiting.
    async fn fail_events(&mut self, jobs: &[Changed], why: &str) -> Result<()> {
        self.set_error_of_events(jobs, Some(why)).await
    }

    async fn set_error_of_events(&mut self, jobs: &[Changed], error: Option<&str>) -> Result<()> {
        let events: Vec<String> = jobs.iter().filter_map(Changed::event).collect();
        if events.is_empty() {
            return Ok(());
        }
        // A failed event keeps its first error.
        let from = if error.is_some() {
            "error is null"
        } else {
            "error is not null"
        };
        let these = format!("select r.job_id from {}", unfold(self.dialect(), JOB_ID));
        let text = format!(
            "update usher_events set error = $2 where processed_at is null and {from} and svix_id in ({these})"
        );
        let ids = job_ids(&events)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(ids)
            .bind(error)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// The dead jobs of these events.
    pub(super) async fn dead_jobs_about_events(&mut self, svix_ids: &[String]) -> Result<Vec<(String, String)>> {
        let dead = JobFilter {
            queue: Some(Queue::ProcessClerkEvent),
            states: vec![JobState::Dead],
            ..JobFilter::default()
        };
        let events: HashSet<&String> = svix_ids.iter().collect();
        let dead = self.jobs(&dead, u32::MAX).await?.into_iter();
        let about = dead.filter_map(|job| Some((job.id, event_in(job.payload.as_bytes())?)));
        Ok(about.filter(|(_, event)| events.contains(event)).collect())
    }

    /// Ends dead jobs that are no longer needed. They keep their last error.
    pub(super) async fn end_dead_jobs(&mut self, ids: &[String]) -> Result<()> {
        self.change_jobs(ids, &[JobState::Dead], |dialect| {
            format!("status = 'Done', done_at = {}", dialect.now)
        })
        .await
        .map(drop)
    }

    /// Executes a statement over the deliveries of these jobs.
    async fn execute_for(&mut self, jobs: &[Changed], text: String) -> Result<()> {
        let deliveries: Vec<Uuid> = jobs.iter().filter_map(Changed::delivery).collect();
        if deliveries.is_empty() {
            return Ok(());
        }
        let ids = invite_ids(&deliveries)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(ids)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Deletes jobs that are dead or done, with their failed attempts; returns how many. An event whose job is dead
    /// stays in the inbox, failed.
    pub async fn purge_jobs(&mut self, ids: &[String]) -> Result<u64> {
        let dialect = dialect_sql(self.dialect());
        let rows = unfold(self.dialect(), JOB_ID);
        let is_dead = is_in(JobState::Dead, dialect.now);
        let jobs = format!(
            "delete from {} where id in (select r.job_id from {rows}) and ({is_dead} or {})
             returning id, job, {is_dead}",
            dialect.table,
            is_in(JobState::Done, dialect.now),
        );
        let failures = format!(
            "delete from usher_job_failures where job_id in (select r.job_id from {rows})
               and not exists (select 1 from {} j where j.id = usher_job_failures.job_id)",
            dialect.table
        );
        let ids = job_ids(ids)?;
        let purged: Vec<(String, Vec<u8>, bool)> =
            on_conn!(self, |conn| sqlx::query_as(sql(jobs)).bind(&ids).fetch_all(conn).await)?;
        let count = purged.len() as u64;
        let dead = purged.into_iter().filter(|(_, _, is_dead)| *is_dead);
        let dead: Vec<Changed> = dead.map(|(id, job, _)| Changed { id, job }).collect();
        self.fail_events(&dead, "its job was deleted").await?;
        on_conn!(self, |conn| sqlx::query(sql(failures))
            .bind(ids)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(count)
    }

    /// The failed attempts at one job, oldest first.
    pub async fn failures_of_job(&mut self, job_id: &str) -> Result<Vec<FailedAttempt>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select job_id, attempt, failed_at, error from usher_job_failures where job_id = $1
             order by failed_at, attempt"
        )
        .bind(job_id)
        .fetch_all(conn)
        .await)?)
    }

    /// The failed attempts at all jobs of one event or delivery, oldest first.
    pub async fn failures_about(&mut self, about: &str) -> Result<Vec<FailedAttempt>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select job_id, attempt, failed_at, error from usher_job_failures where about = $1
             order by failed_at, attempt"
        )
        .bind(about)
        .fetch_all(conn)
        .await)?)
    }

    /// Stores a failed attempt and defers the job if it will be retried. apalis has no durable back-off of its own; its
    /// ack does not change `run_at`, and its fetch respects it (APALIS trap 6).
    pub async fn note_failure(&mut self, failure: &NewFailure<'_>) -> Result<()> {
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(
            "insert into usher_job_failures (job_id, attempt, failed_at, error, about) values ($1, $2, $3, $4, $5)
             on conflict do nothing"
        )
        .bind(failure.job_id)
        .bind(i32::try_from(failure.attempt).unwrap_or(i32::MAX))
        .bind(now)
        .bind(failure.error)
        .bind(failure.about)
        .execute(conn)
        .await
        .map(drop))?;
        match failure.again_at {
            Some(until) => self.defer_job(failure.job_id, until).await,
            None => Ok(()),
        }
    }

    pub(super) async fn defer_job(&mut self, job_id: &str, until: DateTime<Utc>) -> Result<()> {
        match &mut self.conn {
            Conn::Postgres(conn) => {
                sqlx::query("update apalis.jobs set run_at = $2 where id = $1")
                    .bind(job_id)
                    .bind(until)
                    .execute(&mut **conn)
                    .await?;
            }
            Conn::Sqlite(conn) => {
                sqlx::query("update Jobs set run_at = $2 where id = $1")
                    .bind(job_id)
                    .bind(until.timestamp())
                    .execute(&mut **conn)
                    .await?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
pub struct NewFailure<'a> {
    pub job_id: &'a str,
    /// Counted from 1.
    pub attempt: u32,
    /// The id of the event or delivery.
    pub about: Option<&'a str>,
    /// The error, without addresses.
    pub error: &'a str,
    /// When it is retried; `None` if it is dead.
    pub again_at: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct Changed {
    id: String,
    job: Vec<u8>,
}

impl Changed {
    fn delivery(&self) -> Option<Uuid> {
        let payload: serde_json::Value = serde_json::from_slice(&self.job).ok()?;
        payload["delivery_id"].as_str()?.parse().ok()
    }

    fn event(&self) -> Option<String> {
        event_in(&self.job)
    }
}

/// The event id in a job's payload.
fn event_in(payload: &[u8]) -> Option<String> {
    let payload: serde_json::Value = serde_json::from_slice(payload).ok()?;
    payload["svix_id"].as_str().map(str::to_owned)
}

impl From<Row> for JobView {
    fn from(row: Row) -> Self {
        let born = Ulid::from_string(&row.id).ok();
        Self {
            state: row.state.parse().unwrap_or(JobState::Done),
            payload: String::from_utf8_lossy(&row.job).into_owned(),
            enqueued_at: born.and_then(|id| DateTime::from_timestamp_millis(i64::try_from(id.timestamp_ms()).ok()?)),
            due_at: DateTime::from_timestamp(row.due, 0),
            ended_at: row.ended.and_then(|at| DateTime::from_timestamp(at, 0)),
            error: row.result.as_deref().and_then(error_of),
            id: row.id,
            queue: name_of(row.job_type),
            attempts: row.attempts,
            worker: row.lock_by,
        }
    }
}

/// A queue's name without the prefix.
fn name_of(stored: String) -> String {
    Queue::of_stored(&stored).map_or(stored, |queue| queue.as_str().to_owned())
}

/// apalis stores the result of an attempt as `{"Ok": …}` or `{"Err": "…"}`.
fn error_of(result: &str) -> Option<String> {
    let result: serde_json::Value = serde_json::from_str(result).ok()?;
    result.get("Err")?.as_str().map(str::to_owned)
}
