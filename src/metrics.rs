//! What usher counts and measures: every name, what it means, and one typed function for each thing that happens.
//!
//! A leaf, like the clock, so that things are counted where they happen. Labels are `&'static str`: they come from the
//! code, never from what somebody sent, so their number is bounded and nothing private can be among them. The facade and
//! the recorder are the `metrics` family's; without a recorder, as in tests and short commands, counting does nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use crate::names::named;

const WEBHOOKS: &str = "usher_webhooks_total";
const WEBHOOK_DURATION: &str = "usher_webhook_duration_seconds";
const WEBHOOK_LAG: &str = "usher_webhook_lag_seconds";
const JOBS: &str = "usher_jobs_total";
const JOB_DURATION: &str = "usher_job_duration_seconds";
const JOB_WAIT: &str = "usher_job_wait_seconds";
const EMAILS: &str = "usher_emails_total";
const INVITES: &str = "usher_invites_total";
const QUEUE_DEPTH: &str = "usher_queue_depth";
const QUEUE_OLDEST: &str = "usher_queue_oldest_job_age_seconds";
const DEAD_JOBS: &str = "usher_dead_jobs";
const FAILED_EVENTS: &str = "usher_failed_events";
const WORKERS_ALIVE: &str = "usher_workers_alive";
const DATABASE_UP: &str = "usher_database_up";
const DATABASE_CONNECTIONS: &str = "usher_database_connections";
const MAILS_WAIT: &str = "usher_mail_account_refused";
const BUILD_INFO: &str = "usher_build_info";

/// From a hundred microseconds to ten seconds, Svix's patience with a webhook.
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From a millisecond to the longest time limit of a job.
const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];
/// From prompt to a day: what waits may have waited for an outage to end.
const WAIT_BUCKETS: &[f64] = &[
    0.001, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0,
    86400.0,
];

named! {
    /// What became of a request to the webhook.
    WebhookOutcome("webhook outcome") {
        /// Stored and queued.
        Queued = "queued",
        /// Its id was known.
        Duplicate = "duplicate",
        /// Of a type that usher doesn't act on.
        Ignored = "ignored",
        /// Its signature, id or timestamp is wrong.
        BadSignature = "bad_signature",
        /// Broken off, not JSON, or without a type.
        Unreadable = "unreadable",
        /// Its body did not come in time.
        TimedOut = "timed_out",
        /// Over the limit.
        TooLarge = "too_large",
        /// It could not be stored in time; Svix tries again.
        StoreAway = "store_away",
    }
}

named! {
    /// How an attempt at a job ended.
    JobOutcome("job outcome") {
        /// Done.
        Done = "done",
        /// It is tried again.
        Retried = "retried",
        /// It is dead.
        Dead = "dead",
    }
}

named! {
    /// How an attempt to send a mail ended.
    MailOutcome("mail outcome") {
        /// The server took it.
        Sent = "sent",
        /// Not for now; it is tried again.
        Deferred = "deferred",
        /// The server refuses usher's account or setup; it is tried again.
        AccountRefused = "account_refused",
        /// Refused for good.
        Rejected = "rejected",
        /// No longer wanted when its turn came.
        Suppressed = "suppressed",
    }
}

named! {
    /// What happened to invites.
    InviteEvent("invite event") {
        /// An address was asked.
        Created = "created",
        /// An address that was asked already was asked again.
        Refreshed = "refreshed",
        /// Sent again.
        Resent = "resent",
        /// Shown in a banner.
        Flagged = "flagged",
        /// The banner was put away.
        Dismissed = "dismissed",
        /// Accepted, by a match or by the person.
        Accepted = "accepted",
        /// Its person was not let in, because the inviter or the role is no longer what it was.
        Refused = "refused",
        /// Declined by the person.
        Declined = "declined",
        /// Taken back by the app.
        Revoked = "revoked",
        /// Its time was over.
        Expired = "expired",
    }
}

named! {
    /// Where jobs stand that are not finished.
    QueueState("queue state") {
        /// Due, and waiting for a worker.
        Waiting = "waiting",
        /// Not due yet: tried before, or meant for later.
        Scheduled = "scheduled",
        /// Held by a worker.
        Running = "running",
    }
}

/// The type of events that usher does not act on.
pub const OTHER_TYPE: &str = "other";
/// The type of a request that was refused before its type could be believed.
pub const UNKNOWN_TYPE: &str = "unknown";

/// Counts a request to the webhook. `event_type` is one of those that usher acts on, [`OTHER_TYPE`] or
/// [`UNKNOWN_TYPE`].
pub fn webhook(event_type: &'static str, outcome: WebhookOutcome, took: Duration) {
    counter!(WEBHOOKS, "type" => event_type, "outcome" => outcome.as_str()).increment(1);
    histogram!(WEBHOOK_DURATION).record(took);
}

/// Notes how long after its arrival an event took effect.
pub fn webhook_applied(lag: Duration) {
    histogram!(WEBHOOK_LAG).record(lag);
}

/// Notes how long a job waited since it was due.
pub fn job_started(queue: &'static str, waited: Duration) {
    histogram!(JOB_WAIT, "queue" => queue).record(waited);
}

/// Counts an attempt at a job.
pub fn job_ended(queue: &'static str, outcome: JobOutcome, took: Duration) {
    counter!(JOBS, "queue" => queue, "outcome" => outcome.as_str()).increment(1);
    histogram!(JOB_DURATION, "queue" => queue).record(took);
}

/// Counts an attempt to send a mail.
pub fn email(template: &'static str, outcome: MailOutcome) {
    counter!(EMAILS, "template" => template, "outcome" => outcome.as_str()).increment(1);
}

/// Counts what happened to invites, once it is committed.
pub fn invites(event: InviteEvent, count: u64) {
    counter!(INVITES, "event" => event.as_str()).increment(count);
}

/// Lets every counter begin at zero, so that its first event is seen as an increase.
pub fn begin_at_zero(event_types: &[&'static str], queues: &[&'static str], templates: &[&'static str]) {
    for &event_type in event_types {
        counter!(WEBHOOKS, "type" => event_type, "outcome" => WebhookOutcome::Queued.as_str()).increment(0);
    }
    for outcome in WebhookOutcome::ALL {
        counter!(WEBHOOKS, "type" => UNKNOWN_TYPE, "outcome" => outcome.as_str()).increment(0);
    }
    for &queue in queues {
        for outcome in JobOutcome::ALL {
            counter!(JOBS, "queue" => queue, "outcome" => outcome.as_str()).increment(0);
        }
    }
    for &template in templates {
        for outcome in MailOutcome::ALL {
            counter!(EMAILS, "template" => template, "outcome" => outcome.as_str()).increment(0);
        }
    }
    for &event in InviteEvent::ALL {
        invites(event, 0);
    }
}

/// What is in one queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueLevel {
    /// Its name.
    pub queue: &'static str,
    /// Due and waiting.
    pub waiting: u64,
    /// For later.
    pub scheduled: u64,
    /// Held by a worker.
    pub running: u64,
    /// Given up.
    pub dead: u64,
    /// Seconds since the oldest waiting job was due; 0 if none waits.
    pub oldest_age: f64,
}

/// Sets what is known of a queue.
pub fn queue_level(level: &QueueLevel) {
    let depth = |state: QueueState, count: u64| {
        gauge!(QUEUE_DEPTH, "queue" => level.queue, "state" => state.as_str()).set(count as f64);
    };
    depth(QueueState::Waiting, level.waiting);
    depth(QueueState::Scheduled, level.scheduled);
    depth(QueueState::Running, level.running);
    gauge!(DEAD_JOBS, "queue" => level.queue).set(level.dead as f64);
    gauge!(QUEUE_OLDEST, "queue" => level.queue).set(level.oldest_age);
}

/// Sets how many events could not be processed and wait for a person.
pub fn failed_events(count: u64) {
    gauge!(FAILED_EVENTS).set(count as f64);
}

/// Sets whether a queue has a live worker in this process.
pub fn worker_alive(queue: &'static str, alive: bool) {
    gauge!(WORKERS_ALIVE, "queue" => queue).set(f64::from(u8::from(alive)));
}

/// Sets whether the database answered.
pub fn database_up(up: bool) {
    gauge!(DATABASE_UP).set(f64::from(u8::from(up)));
}

/// Sets whether all mails wait because the mail server refuses the account.
pub fn mails_wait(refused: bool) {
    gauge!(MAILS_WAIT).set(f64::from(u8::from(refused)));
}

/// Sets how many connections a pool has in use and idle.
pub fn database_connections(pool: &'static str, in_use: usize, idle: usize) {
    gauge!(DATABASE_CONNECTIONS, "pool" => pool, "state" => "in_use").set(in_use as f64);
    gauge!(DATABASE_CONNECTIONS, "pool" => pool, "state" => "idle").set(idle as f64);
}

/// The recorder of this process, and what it has recorded.
pub struct Recorder {
    handle: PrometheusHandle,
    process: Collector,
}

/// There is one recorder in a process, whatever is started in it.
static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

impl Recorder {
    /// Installs the recorder, or finds the one that is there.
    ///
    /// # Errors
    /// When something else in this process records already.
    pub fn install() -> Result<Self, BuildError> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = match &*installed {
            Some(handle) => handle.clone(),
            None => install()?,
        };
        let process = Collector::default();
        process.describe();
        *installed = Some(handle.clone());
        Ok(Self { handle, process })
    }

    /// Everything, in Prometheus's text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Sums up what was measured since the last time. To be called every few seconds, or unread measurements pile up.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in [
        (WEBHOOK_DURATION, REQUEST_BUCKETS),
        (WEBHOOK_LAG, WAIT_BUCKETS),
        (JOB_DURATION, DURATION_BUCKETS),
        (JOB_WAIT, WAIT_BUCKETS),
    ] {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
    }
    let handle = builder.install_recorder()?;
    describe();
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn describe() {
    let seconds = Unit::Seconds;
    describe_counter!(
        WEBHOOKS,
        "Requests to the webhook, by the event's type and what became of it."
    );
    describe_histogram!(WEBHOOK_DURATION, seconds, "How long the webhook took to answer.");
    describe_histogram!(
        WEBHOOK_LAG,
        seconds,
        "From an event's arrival to the commit of its effect."
    );
    describe_counter!(JOBS, "Attempts at jobs, by queue and how they ended.");
    describe_histogram!(JOB_DURATION, seconds, "How long an attempt at a job took.");
    describe_histogram!(
        JOB_WAIT,
        seconds,
        "How long a job waited for a worker since it was due."
    );
    describe_counter!(EMAILS, "Attempts to send a mail, by template and how they ended.");
    describe_counter!(INVITES, "What happened to invites.");
    describe_gauge!(QUEUE_DEPTH, "Unfinished jobs in the database, by queue and state.");
    describe_gauge!(
        QUEUE_OLDEST,
        seconds,
        "For how long the oldest waiting job has been due; 0 if none waits."
    );
    describe_gauge!(
        DEAD_JOBS,
        "Jobs in the database that were given up and wait for a person."
    );
    describe_gauge!(
        FAILED_EVENTS,
        "Events in the inbox that could not be processed and wait for a person."
    );
    describe_gauge!(WORKERS_ALIVE, "Whether this process has a live worker for a queue.");
    describe_gauge!(
        DATABASE_UP,
        "Whether the database answered the questions behind this page."
    );
    describe_gauge!(
        DATABASE_CONNECTIONS,
        "This process's connections to the database, by pool and state."
    );
    describe_gauge!(
        MAILS_WAIT,
        "Whether the mail server refuses the account, so that all mails wait."
    );
    describe_gauge!(BUILD_INFO, "The version that runs; always 1.");
}
