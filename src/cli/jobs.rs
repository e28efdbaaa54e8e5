//! `usher jobs`: shows and repairs the queue of a running service.

use anyhow::bail;
use serde_json::json;

use super::{command_line, report};
use crate::repair::{JobAction, JobChange, RepairError};
use crate::store::{JobFilter, JobState, JobView, Queue, Store};

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
            ..JobFilter::default()
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
                job.error.as_deref().unwrap_or_default().to_owned(),
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

impl Change {
    async fn run(self, store: &Store, action: JobAction) -> anyhow::Result<()> {
        let verb = action.verb();
        if self.selection.is_empty() && !self.all {
            bail!("which jobs? Give ids, --queue, --state, --older-than, --error or --all");
        }
        let counted = JobChange::count(store, command_line(), action, self.selection.filter(store)).await;
        let mut change = counted.map_err(|error| match error {
            RepairError::Nothing { .. } => anyhow::anyhow!("{error}; `usher jobs list` shows what there is"),
            error => error.into(),
        })?;
        let total = change.counted.total();
        let noun = if total == 1 { "job" } else { "jobs" };
        if self.selection.ids.is_empty() {
            let queues = change.counted.queues.iter();
            let queues: Vec<String> = queues.map(|(queue, count)| format!("{count} {queue}")).collect();
            println!("{total} {noun}: {}", queues.join(", "));
            report::confirm(&format!("{verb} {total} {noun}"), self.yes)?;
        }
        let (mut changed, progress) = (0, report::progress(total));
        while let Some(batch) = change.next_batch(store).await? {
            changed += batch;
            progress.set_position(changed);
        }
        progress.finish_and_clear();
        println!(
            "{changed} {} {}.",
            if changed == 1 { "job" } else { "jobs" },
            action.done()
        );
        if action == JobAction::Purge {
            let failed = store.read().await?.count_failed_events().await?;
            if failed > 0 {
                println!("Events that failed stay in the inbox, {failed} now: `usher webhooks list --state failed`");
            }
        }
        Ok(())
    }
}
