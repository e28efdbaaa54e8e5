//! The queue, worked off without apalis: the same attempts, by the story's clock and with nothing left to chance. The
//! worker's own runtime is run in `worker.rs` and `crashes.rs`.

use chrono::{DateTime, Utc};
use futures::future::join_all;
use usher::jobs::{Context, DeliverEvent, Job, Periodic, ProcessClerkEvent, SendMail};
use usher::store::Queue;
use usher::worker::{Failure, run_attempt};

use super::app::TestApp;
use super::db::TestPool;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobRow {
    pub id: String,
    pub job_type: String,
    pub job: Vec<u8>,
    pub attempts: i32,
    pub status: String,
}

const COLUMNS: &str = "id, replace(job_type, 'usher:', '') as job_type, job, attempts, status";
const WAITING: &str = "status = 'Pending' or (status = 'Failed' and attempts < max_attempts)";

/// Runs what is due, all at once, until nothing is.
pub async fn run_due(app: &TestApp) {
    loop {
        usher::events::number(&app.app).await.expect("numbers");
        let due = due(&app.pool, app.now()).await;
        if due.is_empty() {
            return;
        }
        join_all(due.iter().map(|job| run_one(app, job))).await;
    }
}

async fn run_one(app: &TestApp, job: &JobRow) {
    let attempt = u32::try_from(job.attempts).expect("a count") + 1;
    let outcome = attempt_at(&app.context, job, attempt).await;
    let status = match outcome {
        Ok(()) => "Done",
        Err(Failure::Later(_)) => "Failed",
        Err(Failure::Dead(_)) => "Killed",
    };
    let table = app.pool.jobs();
    let id = &job.id;
    app.pool
        .execute(&format!(
            "update {table} set status = '{status}', attempts = {attempt} where id = '{id}'"
        ))
        .await;
}

pub async fn attempt_at(context: &Context, job: &JobRow, attempt: u32) -> Result<(), Failure> {
    async fn run<J: Job>(context: &Context, job: &JobRow, attempt: u32) -> Result<(), Failure> {
        let queue = job.job_type.parse().expect("a queue");
        run_attempt::<J>(context, queue, &job.job, &job.id, attempt).await
    }
    match job.job_type.parse::<Queue>().expect("a queue") {
        Queue::ProcessClerkEvent => run::<ProcessClerkEvent>(context, job, attempt).await,
        Queue::SendMail => run::<SendMail>(context, job, attempt).await,
        Queue::Periodic => run::<Periodic>(context, job, attempt).await,
        _ => run::<DeliverEvent>(context, job, attempt).await,
    }
}

async fn due(pool: &TestPool, now: DateTime<Utc>) -> Vec<JobRow> {
    let now = pool.pick(format!("'{}'", now.to_rfc3339()), now.timestamp().to_string());
    pool.rows(&format!(
        "select {COLUMNS} from {} where job_type like 'usher:%' and ({WAITING}) and run_at <= {now} order by id",
        pool.jobs()
    ))
    .await
}

/// Everything in the queue, whatever its state.
pub async fn all(pool: &TestPool) -> Vec<JobRow> {
    pool.rows(&format!("select {COLUMNS} from {} order by id", pool.jobs()))
        .await
}

/// What still has to be done, as `queue status attempts`.
pub async fn unfinished(pool: &TestPool) -> Vec<String> {
    all(pool)
        .await
        .into_iter()
        .filter(|job| !matches!(job.status.as_str(), "Done" | "Killed"))
        .map(|job| format!("{} {} {}", job.job_type, job.status, job.attempts))
        .collect()
}
