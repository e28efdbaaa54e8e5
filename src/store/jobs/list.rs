//! Lists and counts of jobs.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::Serialize;
use ulid::Ulid;

use super::state::UNFINISHED;
use super::{JobState, dialect_sql};
use crate::store::rows::{Row as _, TextRow, checked, of_texts, sql, texts_json};
use crate::store::{Dialect, Queue, Result, Tx, on_conn};

/// How many of the newest jobs are looked at before all are.
const NEWEST: u32 = 2_000;

#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub ids: Vec<String>,
    pub queue: Option<Queue>,
    /// In one of these states; if empty, in any state but `done`.
    pub states: Vec<JobState>,
    /// Enqueued before this time.
    pub before: Option<DateTime<Utc>>,
    /// With this text in the last error, whatever the case of ASCII letters.
    pub error: Option<String>,
    /// About one of these events or deliveries.
    pub about: Option<Vec<String>>,
    /// The next page of a list: with ids below this one.
    pub below: Option<String>,
    /// With ids up to this one: what was enqueued later is left out.
    pub through: Option<String>,
    /// With ids above this one.
    pub beyond: Option<String>,
}

/// The jobs that fit a filter when they were counted.
#[derive(Debug, Clone, Default)]
pub struct JobCount {
    /// How many each queue has.
    pub queues: Vec<(String, u64)>,
    /// The highest of their ids.
    pub through: Option<String>,
}

impl JobCount {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.queues.iter().map(|(_, count)| count).sum()
    }
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

impl JobFilter {
    /// The conditions, with parameters as `filtered!` binds them: `$1` ids, `$2` the id that all are below, `$3` the error,
    /// `$4` the highest id, `$5` the id that all are beyond, `$6` what they are about.
    fn conditions(&self, dialect: Dialect) -> String {
        self.conditions_in(self.chosen_queues(), dialect)
    }

    /// The same, of these queues. They are constants in the text, so that planners know how many jobs they have.
    fn conditions_in(&self, queues: &[Queue], dialect: Dialect) -> String {
        let terms = dialect_sql(dialect);
        let names: Vec<String> = queues.iter().map(|queue| format!("'{}'", queue.stored())).collect();
        let mut text = format!("job_type in ({})", names.join(", "));
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
            let states: Vec<String> = states.iter().map(|&state| state.condition(terms.now)).collect();
            let _ = write!(text, " and ({})", states.join(" or "));
        }
        if !states.is_empty() && !asks_for_done && states != [JobState::Dead] {
            // As in the condition of SQLite's partial index: its planner matches each term separately.
            let _ = write!(text, " and {UNFINISHED}");
        }
        if !self.ids.is_empty() {
            let rows = TextRow::unfold(dialect);
            let _ = write!(text, " and id in (select r.text from {rows})");
        } else {
            text.push_str(" and $1 = $1");
        }
        if self.is_about_errors_of_unfinished() {
            // As in the condition of the index of jobs with an error.
            let _ = write!(text, " and {UNFINISHED} and last_result is not null");
        }
        let about = TextRow::unfold_from(dialect, "$6");
        for (is_asked, condition, unused) in [
            (self.limit_id().is_some(), "id < $2".to_owned(), "$2 = $2"),
            (self.error.is_some(), terms.error_contains.to_owned(), "$3 = $3"),
            (self.through.is_some(), "id <= $4".to_owned(), "$4 = $4"),
            (self.beyond.is_some(), "id > $5".to_owned(), "$5 = $5"),
            (
                self.about.is_some(),
                format!("exists (select 1 from {about} where {})", terms.job_contains),
                "$6 = $6",
            ),
        ] {
            let _ = write!(text, " and {}", if is_asked { &condition } else { unused });
        }
        text
    }

    fn is_about_errors_of_unfinished(&self) -> bool {
        self.error.is_some() && self.ids.is_empty() && !self.states.contains(&JobState::Done)
    }

    /// Between which ids the jobs are, with all parameters of [`JobFilter::conditions`].
    fn bounds(&self) -> String {
        let below = if self.limit_id().is_some() {
            "id < $2"
        } else {
            "$2 = $2"
        };
        let through = if self.through.is_some() { "id <= $4" } else { "$4 = $4" };
        let beyond = if self.beyond.is_some() { "id > $5" } else { "$5 = $5" };
        format!("{below} and {through} and {beyond}")
    }

    fn chosen_queues(&self) -> &[Queue] {
        match &self.queue {
            Some(queue) => std::slice::from_ref(queue),
            None => Queue::ALL,
        }
    }

    /// The id that all are below. Ids sort by creation time; ids from `before` on are left out.
    fn limit_id(&self) -> Option<String> {
        let before = self.before.map(|at| at.timestamp_millis().unsigned_abs());
        let before = before.map(|at| Ulid::from_parts(at, 0).to_string());
        [before, self.below.clone()].into_iter().flatten().min()
    }

    /// As they stand in payloads, in quotes: one id may begin like another.
    fn about(&self) -> Result<String> {
        let ids = self.about.iter().flatten();
        let quoted: Vec<String> = ids.map(|id| serde_json::Value::from(id.as_str()).to_string()).collect();
        texts_json(&quoted)
    }

    fn error_words(&self) -> String {
        self.error.as_deref().unwrap_or_default().to_ascii_lowercase()
    }
}

/// Runs one body with a filter's parameters bound.
macro_rules! filtered {
    ($tx:expr, $filter:expr, $query:expr, |$bound:ident, $conn:ident| $body:expr) => {{
        let ids = texts_json(&$filter.ids)?;
        let (limit, words) = ($filter.limit_id().unwrap_or_default(), $filter.error_words());
        let (through, beyond) = ($filter.through.as_deref(), $filter.beyond.as_deref());
        let (through, beyond) = (through.unwrap_or_default(), beyond.unwrap_or_default());
        let about = $filter.about()?;
        on_conn!($tx, |$conn| {
            let bounds = $query.bind(ids).bind(limit).bind(words);
            let $bound = bounds.bind(through).bind(beyond).bind(about);
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
            .map(|&state| format!("when {} then '{state}'", state.condition(dialect.now)))
            .collect();
        let columns = format!(
            "id, job_type, job, case {} else 'done' end as state, attempts, {} as due, {} as ended, lock_by, {} as result",
            states.join(" "),
            (dialect.seconds)("run_at"),
            (dialect.seconds)("done_at"),
            dialect.result,
        );
        let list = |table: &str, conditions: String| {
            format!("select {columns} from {table} where {conditions} order by id desc limit {limit}")
        };
        let table = dialect.table;
        let text = if let [JobState::Done | JobState::Dead] = filter.states[..] {
            // Queue by queue, as the indexes of these jobs are ordered: the newest of a queue that has few would
            // otherwise be looked for among the million of another.
            let of_queue = |queue: &Queue| {
                let jobs = list(table, filter.conditions_in(std::slice::from_ref(queue), self.dialect()));
                format!("select * from ({jobs}) as of_queue")
            };
            let lists: Vec<String> = filter.chosen_queues().iter().map(of_queue).collect();
            format!("{} order by id desc limit {limit}", lists.join(" union all "))
        } else if !filter.ids.is_empty() {
            list(table, filter.conditions(self.dialect()))
        } else {
            // Unfinished jobs are mostly among the newest. If enough are there, those of a long queue need not be sorted.
            let bounds = filter.bounds();
            let newest = format!("(select * from {table} where {bounds} order by id desc limit {NEWEST}) as newest");
            let conditions = filter.conditions(self.dialect());
            let text = list(&newest, conditions.clone());
            let rows: Vec<Row> = filtered!(self, filter, sqlx::query_as(sql(text)), |query, conn| query
                .fetch_all(conn)
                .await)?;
            if rows.len() == limit as usize {
                return Ok(rows.into_iter().map(JobView::from).collect());
            }
            match self.dialect() {
                // Its planner would rather walk all finished jobs by id than sort a few unfinished ones, but for `offset`.
                Dialect::Postgres => format!(
                    "select {columns} from {table} where id = any (array(
                         select id from (select id from {table} where {conditions} offset 0) as fitting
                         order by id desc limit {limit})) order by id desc"
                ),
                // Its planner can't know that few of the unfinished jobs have an error.
                Dialect::Sqlite if filter.is_about_errors_of_unfinished() => {
                    list(&format!("{table} indexed by usher_jobs_with_error"), conditions)
                }
                Dialect::Sqlite => list(table, conditions),
            }
        };
        let rows: Vec<Row> = filtered!(self, filter, sqlx::query_as(sql(text)), |query, conn| query
            .fetch_all(conn)
            .await)?;
        Ok(rows.into_iter().map(JobView::from).collect())
    }

    /// How many jobs each queue has, and how far their ids reach.
    pub async fn count_jobs(&mut self, filter: &JobFilter) -> Result<JobCount> {
        let text = format!(
            "select job_type, count(*), max(id) from {} where {} group by job_type order by job_type",
            dialect_sql(self.dialect()).table,
            filter.conditions(self.dialect()),
        );
        let counts: Vec<(String, i64, String)> =
            filtered!(self, filter, sqlx::query_as(sql(text)), |query, conn| query
                .fetch_all(conn)
                .await)?;
        Ok(JobCount {
            through: counts.iter().map(|(_, _, highest)| highest.clone()).max(),
            queues: counts
                .into_iter()
                .map(|(queue, count, _)| (name_of(queue), count.unsigned_abs()))
                .collect(),
        })
    }

    /// The ids of jobs, oldest first.
    pub async fn job_ids(&mut self, filter: &JobFilter, limit: u32) -> Result<Vec<String>> {
        let text = format!(
            "select id from {} where {} order by id limit {limit}",
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

    /// The dead jobs of these events, with the events: a job does not die without a failed attempt.
    pub(in crate::store) async fn dead_jobs_about_events(
        &mut self,
        svix_ids: &[String],
    ) -> Result<Vec<(String, String)>> {
        let dialect = dialect_sql(self.dialect());
        let text = format!(
            "select distinct id, about from usher_job_failures join {} on id = job_id
             where {} and job_type = $2 and {}",
            dialect.table,
            of_texts(self.dialect(), "about"),
            checked(&JobState::Dead.condition(dialect.now)),
        );
        let events = texts_json(svix_ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(events)
            .bind(Queue::ProcessClerkEvent.stored())
            .fetch_all(conn)
            .await)?)
    }
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

/// apalis stores the result of an attempt as `{"Ok": …}` or `{"Err": "…"}`; before an error that ends a job it puts the name
/// of its own type.
fn error_of(result: &str) -> Option<String> {
    let result: serde_json::Value = serde_json::from_str(result).ok()?;
    let error = result.get("Err")?.as_str()?;
    Some(error.strip_prefix("AbortError: ").unwrap_or(error).to_owned())
}
