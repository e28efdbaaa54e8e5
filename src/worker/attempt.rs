//! One attempt at a job: with a timeout, panics caught, a maximum number of attempts, and a durable wait before the
//! next one.
//!
//! The timeout and `catch_unwind` are here because apalis's own layers leave the row `Running` (APALIS trap 5); the
//! maximum, because recovered orphans ignore apalis's (trap 8).

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use serde::Deserialize;

use crate::jobs::{Context, Job, JobError, wait_after};
use crate::metrics::{self, JobOutcome};
use crate::store::{NewFailure, Queue};
use crate::telemetry;

/// The timeout for storing the result of an attempt.
const NOTE_LIMIT: Duration = Duration::from_secs(8);

/// The delay of a job that was deferred because another item of its batch was locked.
const DEFERRED_WAIT: Duration = Duration::from_millis(500);

/// The minimum delay after a lock timeout.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// How an attempt failed. The job's row has already been updated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It will be retried; `run_at` has been set.
    #[error("{0}")]
    Later(String),
    #[error("{0}")]
    Dead(String),
}

/// Runs one attempt; `attempt` is counted from 1.
pub async fn run_attempt<J: Job>(
    context: &Context,
    queue: Queue,
    payload: &[u8],
    job_id: &str,
    attempt: u32,
) -> Result<(), Failure> {
    let started = Instant::now();
    let job = serde_json::from_slice::<J>(payload);
    let at = At {
        queue,
        job_id,
        attempt,
        about: job.as_ref().ok().and_then(Job::about),
    };
    let cause = cause_of(payload).or(at.about.clone());
    let span = tracing::info_span!(
        "job",
        job.queue = queue.as_str(),
        job.id = job_id,
        job.attempt = attempt,
        job.about = at.about,
        cause
    );
    let attempt = async {
        match job {
            Ok(job) => run::<J>(&job, context, &at).await,
            // Not serde's own error, which would quote the payload.
            Err(_) => Err(Box::pin(dead(context, &at, "its payload can't be read".to_owned())).await),
        }
    };
    let ended = telemetry::with_correlation_id(cause.unwrap_or_else(|| job_id.to_owned()), span, attempt).await;
    count(context, queue, &ended, started);
    ended
}

/// The correlation id that the enqueueing transaction stored in the payload.
fn cause_of(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Caused {
        cause: Option<String>,
    }
    serde_json::from_slice::<Caused>(payload).ok()?.cause
}

async fn run<J: Job>(job: &J, context: &Context, at: &At<'_>) -> Result<(), Failure> {
    let outcome = if at.attempt > J::MAX_STARTS {
        // A job that fails is dead by now: these attempts never ended.
        Err(JobError::GiveUp(
            "no attempts are left: the last ones never ended, because their process was killed or died of them"
                .to_owned(),
        ))
    } else {
        guarded(job, context).await
    };
    match outcome {
        Ok(()) => {
            tracing::debug!("{} is done", at.queue);
            Ok(())
        }
        // Boxed, to keep the future of the usual case small.
        Err(error) => Err(Box::pin(failed(job, context, at, error)).await),
    }
}

/// Updates the job after an error.
async fn failed<J: Job>(job: &J, context: &Context, at: &At<'_>, error: JobError) -> Failure {
    match error {
        JobError::Retry(why) if at.attempt >= J::MAX_STARTS => give_up(job, context, at, why).await,
        JobError::Retry(why) => later(context, at, why).await,
        JobError::RetryAt { at: again_at, why } => later_at(context, at, again_at, why).await,
        JobError::Wait { until } => {
            give_back(context, at, until).await;
            Failure::Later("deferred".to_owned())
        }
        JobError::Busy(_) => {
            let until = context.app.clock.now() + busy_wait(rand::random());
            give_back(context, at, until).await;
            Failure::Later("it waits for a lock".to_owned())
        }
        JobError::Deferred => {
            give_back(context, at, context.app.clock.now() + DEFERRED_WAIT).await;
            Failure::Later("another item of its batch is locked".to_owned())
        }
        JobError::GiveUp(why) => give_up(job, context, at, why).await,
    }
}

/// Up to twice [`BUSY_WAIT`], so that not all jobs are retried at once. `random` is from 0 to 1.
fn busy_wait(random: f64) -> Duration {
    BUSY_WAIT + BUSY_WAIT.mul_f64(random)
}

fn count(context: &Context, queue: Queue, ended: &Result<(), Failure>, started: Instant) {
    let outcome = match ended {
        Ok(()) => JobOutcome::Done,
        Err(Failure::Later(_)) => JobOutcome::Retried,
        Err(Failure::Dead(_)) => JobOutcome::Dead,
    };
    if outcome == JobOutcome::Done {
        context.throughput.count(queue, true);
    }
    metrics::job_ended(queue.as_str(), outcome, started.elapsed());
}

async fn guarded<J: Job>(job: &J, context: &Context) -> Result<(), JobError> {
    // Boxed: otherwise the futures around it would reserve, and move, its size twice.
    let run = AssertUnwindSafe(Box::pin(job.run(context))).catch_unwind();
    match tokio::time::timeout(J::TIME_LIMIT, run).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(JobError::Retry("it panicked".to_owned())),
        Err(_) => Err(JobError::Retry(format!(
            "it took longer than {} s",
            J::TIME_LIMIT.as_secs()
        ))),
    }
}

/// Stores the failure on the event or delivery first; if that fails, the job is retried until it can be stored.
async fn give_up<J: Job>(job: &J, context: &Context, at: &At<'_>, why: String) -> Failure {
    let noted = tokio::time::timeout(NOTE_LIMIT, job.gave_up(context, &why)).await;
    match noted.unwrap_or_else(|_| Err(JobError::Retry("the database gave no answer".to_owned()))) {
        Ok(()) => dead(context, at, why).await,
        Err(error) => later(context, at, format!("{why}; and {error}")).await,
    }
}

async fn later(context: &Context, at: &At<'_>, why: String) -> Failure {
    let again_at = context.app.clock.now() + wait_after(at.attempt, rand::random());
    later_at(context, at, again_at, why).await
}

async fn later_at(context: &Context, at: &At<'_>, again_at: DateTime<Utc>, why: String) -> Failure {
    // If this fails, the job only runs again sooner than wanted.
    at.note(context, &why, Some(again_at)).await;
    let wait = again_at - context.app.clock.now();
    tracing::warn!("{} failed, next attempt in {} s: {why}", at.queue, wait.num_seconds());
    Failure::Later(why)
}

/// Releases a job that was not tried, so there is no failure to store. If this fails, an attempt is counted, which is
/// harmless.
async fn give_back(context: &Context, at: &At<'_>, due: DateTime<Utc>) {
    let store = &context.app.store;
    if let Err(error) = store
        .with_timeout(NOTE_LIMIT, store.give_back_job(at.job_id, due))
        .await
    {
        tracing::warn!(error = %error, "could not release a job");
    }
}

async fn dead(context: &Context, at: &At<'_>, why: String) -> Failure {
    at.note(context, &why, None).await;
    tracing::error!("{} is dead: {why}", at.queue);
    Failure::Dead(why)
}

struct At<'a> {
    queue: Queue,
    job_id: &'a str,
    attempt: u32,
    about: Option<String>,
}

impl At<'_> {
    async fn note(&self, context: &Context, error: &str, again_at: Option<DateTime<Utc>>) {
        context.throughput.count(self.queue, false);
        let failure = NewFailure {
            job_id: self.job_id,
            attempt: self.attempt,
            about: self.about.as_deref(),
            error,
            again_at,
        };
        let store = &context.app.store;
        if let Err(error) = store.with_timeout(NOTE_LIMIT, store.note_failure(&failure)).await {
            tracing::warn!(error = %error, "could not record a job's failed attempt");
        }
    }
}
