//! `usher jobs`: shows and repairs the queue of a running service.

use anstream::println;
use anyhow::bail;
use futures::FutureExt as _;
use serde_json::json;

use super::report;
use crate::store::{JobFilter, JobState, JobView, Queue, Store, StoreError, Tx};

/// Show and repair the queue. The service may be running.
#[derive(Debug, clap::Subcommand)]
pub enum Jobs {
    /// List jobs, newest first; by default those that are not done.
    List {
        #[command(flatten)]
        selection: Selection,
        /// The maximum number.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one job with its failed attempts.
    Show {
        /// The job's id.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run dead or scheduled jobs now, with all attempts left again.
    Retry(Change),
    /// Cancel jobs that are not running: their mails are not sent, their events fail.
    Cancel(Change),
    /// Delete dead or done jobs; failed events stay in the inbox.
    Purge(Change),
}

#[derive(Debug, Clone, clap::Args)]
pub struct Selection {
    /// Ids of jobs.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Only jobs in this queue.
    #[arg(long, value_parser = str::parse::<Queue>)]
    queue: Option<Queue>,
    /// Only jobs in this state: waiting, scheduled, running, dead or done.
    #[arg(long, value_parser = str::parse::<JobState>)]
    state: Option<JobState>,
    /// Only jobs enqueued longer ago than this, such as 90m, 36h or 7d.
    #[arg(long, value_name = "AGE", value_parser = report::age)]
    older_than: Option<chrono::TimeDelta>,
    /// Only jobs whose last error contains these words.
    #[arg(long, value_name = "WORDS")]
    error: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Change {
    #[command(flatten)]
    selection: Selection,
    /// All jobs for which this is possible.
    #[arg(long)]
    all: bool,
    /// Don't ask for confirmation.
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy)]
enum JobAction {
    Retry,
    Cancel,
    Purge,
}

/// Jobs that one transaction changes.
const BATCH: usize = 500;

impl Jobs {
    pub(super) async fn run(self, store: Store) -> anyhow::Result<()> {
        match self {
            Self::List { selection, limit, json } => list(&store, &selection.filter(&store), limit, json).await?,
            Self::Show { id, json } => show(&store, id, json).await?,
            Self::Retry(change) => change.run(&store, JobAction::Retry).await?,
            Self::Cancel(change) => change.run(&store, JobAction::Cancel).await?,
            Self::Purge(change) => change.run(&store, JobAction::Purge).await?,
        }
        store.close().await;
        Ok(())
    }
}

impl Selection {
    fn filter(&self, store: &Store) -> JobFilter {
        JobFilter {
            ids: self.ids.clone(),
            queue: self.queue,
            states: self.state.into_iter().collect(),
            before: self.older_than.map(|age| store.now() - age),
            error: self.error.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty()
            && self.queue.is_none()
            && self.state.is_none()
            && self.older_than.is_none()
            && self.error.is_none()
    }
}

async fn list(store: &Store, filter: &JobFilter, limit: u32, as_json: bool) -> anyhow::Result<()> {
    let jobs = store.read().await?.jobs(filter, limit).await?;
    if as_json {
        return report::json(&jobs);
    }
    let now = store.now();
    let rows: Vec<[String; 6]> = jobs
        .iter()
        .map(|job| {
            [
                job.id.clone(),
                job.queue.clone(),
                job.state.to_string(),
                job.attempts.to_string(),
                job.due_at.map(|at| report::distance(at, now)).unwrap_or_default(),
                report::short(job.error.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    report::table(["ID", "QUEUE", "STATE", "ATTEMPTS", "DUE", "LAST ERROR"], &rows);
    report::more(jobs.len(), limit);
    Ok(())
}

async fn show(store: &Store, id: String, as_json: bool) -> anyhow::Result<()> {
    let filter = JobFilter {
        ids: vec![id.clone()],
        ..JobFilter::default()
    };
    let mut tx = store.read().await?;
    let Some(job) = tx.jobs(&filter, 1).await?.into_iter().next() else {
        bail!("there is no job {id}; `usher jobs list` shows what there is");
    };
    let failures = tx.failures_of_job(&id).await?;
    if as_json {
        return report::json(&json!({ "job": job, "failed_attempts": failures }));
    }
    print_job(&job);
    if failures.is_empty() {
        return Ok(());
    }
    println!("\nFailed attempts");
    for failure in failures {
        println!(
            "  {}  {:>3}  {}",
            report::time(failure.failed_at),
            failure.attempt,
            failure.error
        );
    }
    Ok(())
}

fn print_job(job: &JobView) {
    let at = |time: Option<chrono::DateTime<chrono::Utc>>| time.map(report::time).unwrap_or_default();
    for (name, value) in [
        ("id", job.id.clone()),
        ("queue", job.queue.clone()),
        ("state", job.state.to_string()),
        ("carries", job.payload.clone()),
        ("enqueued", at(job.enqueued_at)),
        ("due", at(job.due_at)),
        ("attempts", job.attempts.to_string()),
        ("last ended", at(job.ended_at)),
        ("worker", job.worker.clone().unwrap_or_default()),
        ("last error", job.error.clone().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            println!("{name:<11} {value}");
        }
    }
}

impl JobAction {
    /// The states of jobs that this can be done to.
    fn states(self) -> &'static [JobState] {
        match self {
            Self::Retry => &[JobState::Dead, JobState::Scheduled],
            Self::Cancel => &[JobState::Waiting, JobState::Scheduled],
            Self::Purge => &[JobState::Dead, JobState::Done],
        }
    }

    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Retry => ("retry", "queued again"),
            Self::Cancel => ("cancel", "cancelled"),
            Self::Purge => ("purge", "deleted"),
        }
    }

    async fn apply(self, tx: &mut Tx, ids: &[String]) -> Result<u64, StoreError> {
        match self {
            Self::Retry => Ok(tx.retry_jobs(ids).await?.len() as u64),
            Self::Cancel => Ok(tx.cancel_jobs(ids).await?.len() as u64),
            Self::Purge => tx.purge_jobs(ids).await,
        }
    }
}

impl Change {
    async fn run(self, store: &Store, action: JobAction) -> anyhow::Result<()> {
        let (verb, done) = action.labels();
        if self.selection.is_empty() && !self.all {
            bail!("which jobs? Give ids, --queue, --state, --older-than, --error or --all");
        }
        let mut filter = self.selection.filter(store);
        if filter.states.is_empty() {
            filter.states = action.states().to_vec();
        } else if !filter.states.iter().all(|state| action.states().contains(state)) {
            let names: Vec<&str> = action.states().iter().map(|state| state.as_str()).collect();
            bail!("{verb} is for jobs that are {}", names.join(" or "));
        }
        let counts = store.read().await?.count_jobs(&filter).await?;
        let total: i64 = counts.iter().map(|(_, count)| count).sum();
        if total == 0 {
            bail!("no job that can be {done} is among those; `usher jobs list` shows what there is");
        }
        let queues: Vec<String> = counts.iter().map(|(queue, count)| format!("{count} {queue}")).collect();
        let (noun, queues) = (if total == 1 { "job" } else { "jobs" }, queues.join(", "));
        if self.selection.ids.is_empty() {
            println!("{total} {noun}: {queues}");
            report::confirm(&format!("{verb} {total} {noun}"), self.yes)?;
        }
        // Each id once: a job that fails again at once would otherwise be selected again and again.
        let ids = store.read().await?.job_ids(&filter).await?;
        let mut changed = 0;
        for ids in ids.chunks(BATCH) {
            changed += store.transaction(ids, |tx, ids| action.apply(tx, ids).boxed()).await?;
        }
        println!("{changed} {} {done}.", if changed == 1 { "job" } else { "jobs" });
        if matches!(action, JobAction::Purge) {
            let failed = store.read().await?.count_failed_events().await?;
            if failed > 0 {
                println!("Events that failed stay in the inbox, {failed} now: `usher webhooks list --state failed`");
            }
        }
        Ok(())
    }
}
