//! One attempt at a job: within its time limit, panics caught, never more often than allowed, and with a durable wait
//! before the next.
//!
//! Time limit and `catch_unwind` stand here because apalis's own layers leave the row `Running` (APALIS trap 5); the
//! attempt limit, because recovered orphans ignore apalis's (trap 8).

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt as _;

use crate::jobs::{Context, Job, JobError, wait_after};

/// How long noting what came of an attempt may take.
const NOTE_LIMIT: Duration = Duration::from_secs(8);

/// How an attempt failed; its job's row is prepared accordingly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It is tried again; its row's time has been moved.
    #[error("{0}")]
    Later(String),
    /// It is dead.
    #[error("{0}")]
    Dead(String),
}

/// Runs one attempt, number `attempt` counted from 1.
///
/// # Errors
/// [`Failure`].
pub async fn run_attempt<J: Job>(context: &Context, payload: &[u8], job_id: &str, attempt: u32) -> Result<(), Failure> {
    let job: J = match serde_json::from_slice(payload) {
        Ok(job) => job,
        // serde's own words would quote the payload.
        Err(_) => return Err(dead::<J>(job_id, attempt, "its payload can't be read".to_owned())),
    };
    let outcome = if attempt > J::MAX_STARTS {
        Err(JobError::GiveUp("no attempts are left".to_owned()))
    } else {
        guarded(&job, context).await
    };
    match outcome {
        Ok(()) => {
            tracing::debug!(
                job.queue = J::QUEUE.as_str(),
                job.id = job_id,
                job.attempt = attempt,
                "done"
            );
            Ok(())
        }
        Err(JobError::Retry(why)) if attempt >= J::MAX_STARTS => give_up(&job, context, job_id, attempt, why).await,
        Err(JobError::Retry(why)) => Err(later::<J>(context, job_id, attempt, why).await),
        Err(JobError::RetryAt { at, why }) => Err(later_at::<J>(context, job_id, attempt, at, why).await),
        Err(JobError::Wait { until }) => {
            defer(context, job_id, until).await;
            Err(Failure::Later("it waits".to_owned()))
        }
        Err(JobError::GiveUp(why)) => give_up(&job, context, job_id, attempt, why).await,
    }
}

async fn guarded<J: Job>(job: &J, context: &Context) -> Result<(), JobError> {
    let run = AssertUnwindSafe(job.run(context)).catch_unwind();
    match tokio::time::timeout(J::TIME_LIMIT, run).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(JobError::Retry("it panicked".to_owned())),
        Err(_) => Err(JobError::Retry(format!(
            "it took longer than {} s",
            J::TIME_LIMIT.as_secs()
        ))),
    }
}

/// Notes the death where people look for it; if that fails, the job lives on until it can be noted.
async fn give_up<J: Job>(job: &J, context: &Context, job_id: &str, attempt: u32, why: String) -> Result<(), Failure> {
    let noted = tokio::time::timeout(NOTE_LIMIT, job.gave_up(context, &why)).await;
    match noted.unwrap_or_else(|_| Err(JobError::Retry("the database gave no answer".to_owned()))) {
        Ok(()) => Err(dead::<J>(job_id, attempt, why)),
        Err(error) => Err(later::<J>(context, job_id, attempt, format!("{why}; and {error}")).await),
    }
}

async fn later<J: Job>(context: &Context, job_id: &str, attempt: u32, why: String) -> Failure {
    let at = context.app.clock.now() + wait_after(attempt, rand::random());
    later_at::<J>(context, job_id, attempt, at, why).await
}

async fn later_at<J: Job>(context: &Context, job_id: &str, attempt: u32, at: DateTime<Utc>, why: String) -> Failure {
    defer(context, job_id, at).await;
    tracing::warn!(
        job.queue = J::QUEUE.as_str(),
        job.id = job_id,
        job.attempt = attempt,
        "{} failed, next attempt in {} s: {why}",
        J::QUEUE,
        (at - context.app.clock.now()).num_seconds()
    );
    Failure::Later(why)
}

async fn defer(context: &Context, job_id: &str, until: DateTime<Utc>) {
    let store = &context.app.store;
    if let Err(error) = store.in_time(NOTE_LIMIT, store.defer_job(job_id, until)).await {
        // It will be run again sooner than wanted, which is no harm.
        tracing::warn!(job.id = job_id, error = %error, "could not move a job's time");
    }
}

fn dead<J: Job>(job_id: &str, attempt: u32, why: String) -> Failure {
    tracing::error!(
        job.queue = J::QUEUE.as_str(),
        job.id = job_id,
        job.attempt = attempt,
        "{} is dead: {why}",
        J::QUEUE
    );
    Failure::Dead(why)
}
