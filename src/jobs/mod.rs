//! The jobs, one file each. A payload holds ids, never copies of data. Every job may run twice; the second run changes
//! nothing.

mod back_off;
mod circuit_breaker;
mod deliver_event;
mod pauses;
mod periodic;
mod process_clerk_event;
mod retention;
mod send_mail;
mod throughput;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

pub(crate) use back_off::wait_after;
pub use circuit_breaker::{CircuitBreaker, poll_circuit_breaker, run_circuit_breaker};
pub use deliver_event::DeliverEvent;
pub use pauses::Pauses;
pub use periodic::{Periodic, SCHEDULES, Schedule};
pub use process_clerk_event::ProcessClerkEvent;
pub use send_mail::SendMail;
pub use throughput::Throughput;

use crate::app::App;
use crate::batch::BatchError;
use crate::store::{self, Queue, StoreError};

/// A job: the struct is its payload, the `impl` its behaviour.
pub trait Job: DeserializeOwned + Send + Sync + 'static {
    /// Its queue; of several with the same jobs, the first.
    const QUEUE: Queue;
    /// The timeout of one attempt. Twice this must be less than the time after which orphaned jobs are recovered
    /// (APALIS trap 3), or it must be safe to run two attempts at once.
    const TIME_LIMIT: Duration;
    /// The maximum number of starts, crashes included; after that the job is dead.
    const MAX_STARTS: u32 = Queue::MAX_ATTEMPTS.unsigned_abs();
    /// Whether it stays in the queue while the mail circuit breaker is open.
    const IS_MAIL: bool = false;

    /// The id of its event or delivery, by which failed attempts are found.
    fn about(&self) -> Option<String> {
        None
    }

    /// Runs the job. A row that no longer exists is no error.
    fn run(&self, context: &Context) -> impl Future<Output = Result<(), JobError>> + Send;

    /// Stores on the event or delivery that the job is dead. May be called more than once.
    fn gave_up(&self, context: &Context, why: &str) -> impl Future<Output = Result<(), JobError>> + Send;
}

#[derive(Clone)]
pub struct Context {
    pub app: App,
    pub breaker: Arc<CircuitBreaker>,
    pub pauses: Arc<Pauses>,
    pub throughput: Arc<Throughput>,
    /// Cancelled when no new work may start.
    pub stopping: CancellationToken,
    events: Arc<process_clerk_event::Events>,
    mails: Arc<send_mail::Mails>,
    deliveries: Arc<deliver_event::Deliveries>,
}

impl Context {
    #[must_use]
    pub fn start(app: App) -> Self {
        Self {
            breaker: Arc::default(),
            pauses: Arc::default(),
            throughput: Arc::default(),
            stopping: CancellationToken::new(),
            events: Arc::new(process_clerk_event::Events::start(app.clone())),
            mails: Arc::new(send_mail::Mails::start(&app)),
            deliveries: Arc::new(deliver_event::Deliveries::start(&app)),
            app,
        }
    }
}

/// Why a job failed; decided where the error happens. The texts are stored with the job and logged, so they contain no
/// address, token or payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Retry with the usual back-off.
    #[error("{0}")]
    Retry(String),
    /// Retry at this time. The job counts its attempts itself.
    #[error("{why}")]
    RetryAt { at: DateTime<Utc>, why: String },
    /// It was not tried, because something that it needs is unavailable; that is logged elsewhere, once for all jobs.
    #[error("deferred")]
    Wait { until: DateTime<Utc> },
    /// Lock timeout: another transaction holds a lock that it needs. This is no attempt, and is logged at most once a
    /// minute.
    #[error("{0}")]
    Busy(String),
    /// It was not tried, because another item of its batch is locked. This is no attempt, and is not logged.
    #[error("another item of its batch is locked")]
    Deferred,
    /// It can never succeed.
    #[error("{0}")]
    GiveUp(String),
}

impl From<&StoreError> for JobError {
    fn from(error: &StoreError) -> Self {
        if error.is_busy() {
            store::log_busy(error);
            Self::Busy(error.to_string())
        } else if let Some(code) = error.refusal_code() {
            // Without the database's own message, which may quote the values.
            Self::GiveUp(format!("the database refuses what it was given (error {code})"))
        } else {
            Self::retry(error)
        }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<BatchError> for JobError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Store(error) => Self::from(&*error),
            BatchError::Deferred => Self::Deferred,
            BatchError::Lost => Self::retry(error),
        }
    }
}

impl JobError {
    pub fn retry(why: impl Display) -> Self {
        Self::Retry(why.to_string())
    }

    pub fn give_up(why: impl Display) -> Self {
        Self::GiveUp(why.to_string())
    }
}
