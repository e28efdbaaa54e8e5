//! The jobs: one file each. A payload carries ids, never copies of data; every job may run twice, and the second run
//! changes nothing.

mod back_off;
mod circuit_breaker;
mod outgoing;
mod periodic;
mod process_clerk_event;
mod retention;
mod send_accepted_notice;
mod send_invite_email;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

pub(crate) use back_off::wait_after;
pub use circuit_breaker::{CircuitBreaker, look_after_mail, run_circuit_breaker};
pub use periodic::{Periodic, SCHEDULES, Schedule};
pub use process_clerk_event::ProcessClerkEvent;
pub use send_accepted_notice::SendAcceptedNotice;
pub use send_invite_email::SendInviteEmail;

use crate::app::App;
use crate::batch::BatchError;
use crate::store::{self, Queue, StoreError};

/// A piece of work: the struct is its payload, the `impl` its behaviour.
pub trait Job: DeserializeOwned + Send + Sync + 'static {
    /// Where it is queued.
    const QUEUE: Queue;
    /// How long one attempt may take. Twice this must stay below the time after which a silent worker's jobs are given
    /// to others (APALIS trap 3), or be no harm when run twice.
    const TIME_LIMIT: Duration;
    /// How often it may be started, crashes included, before it counts as dead.
    const MAX_STARTS: u32 = Queue::MAX_ATTEMPTS.unsigned_abs();
    /// Whether it is left in the queue while the mail server refuses the account.
    const IS_MAIL: bool = false;

    /// What it is about, as failed attempts are looked up by: an event's or a delivery's id.
    fn about(&self) -> Option<String> {
        None
    }

    /// Does it. A row that is gone is no error.
    fn run(&self, context: &Context) -> impl Future<Output = Result<(), JobError>> + Send;

    /// Notes, where people look for it, that the job is dead. May be called more than once.
    fn gave_up(&self, context: &Context, why: &str) -> impl Future<Output = Result<(), JobError>> + Send;
}

/// What jobs are given.
#[derive(Clone)]
pub struct Context {
    /// Configuration, store, mailer, clock.
    pub app: App,
    /// Whether mails may go out.
    pub breaker: Arc<CircuitBreaker>,
    /// Cancelled once no more work shall be begun.
    pub stopping: CancellationToken,
    events: Arc<process_clerk_event::Events>,
    mails: Arc<outgoing::Mails>,
}

impl Context {
    /// Starts what jobs share.
    #[must_use]
    pub fn start(app: App) -> Self {
        Self {
            breaker: Arc::default(),
            stopping: CancellationToken::new(),
            events: Arc::new(process_clerk_event::Events::start(app.clone())),
            mails: Arc::new(outgoing::Mails::start(&app)),
            app,
        }
    }
}

/// Why a job did not succeed; decided where the error happens. The texts are kept with the job and logged, so they hold
/// no address, token or payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// It may work later.
    #[error("{0}")]
    Retry(String),
    /// It may work from this time on. The job counts its attempts itself.
    #[error("{why}")]
    RetryAt {
        /// Not before.
        at: DateTime<Utc>,
        /// What went wrong.
        why: String,
    },
    /// It was not tried, because what it needs is away; that is reported once elsewhere, not for each job.
    #[error("deferred")]
    Wait {
        /// When to look again.
        until: DateTime<Utc>,
    },
    /// It could not be done now, because somebody else has locked what it needs. That is no attempt, and told once a
    /// minute.
    #[error("{0}")]
    Busy(String),
    /// It had no turn, because something beside it is locked. That is no attempt, and not told.
    #[error("another item of its batch is locked")]
    Deferred,
    /// It never will.
    #[error("{0}")]
    GiveUp(String),
}

impl From<&StoreError> for JobError {
    fn from(error: &StoreError) -> Self {
        if error.is_busy() {
            store::tell_busy(error);
            Self::Busy(error.to_string())
        } else if let Some(code) = error.refusal_code() {
            // The database's own words are left out: they may quote what it was given.
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
    /// It may work later.
    pub fn retry(why: impl Display) -> Self {
        Self::Retry(why.to_string())
    }

    /// It never will.
    pub fn give_up(why: impl Display) -> Self {
        Self::GiveUp(why.to_string())
    }
}
