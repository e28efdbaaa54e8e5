//! Metrics: every name, its description, and one typed function for each measurement.
//!
//! A leaf, like the clock, so that events are counted where they happen. Labels are `&'static str`: they come from the
//! code, never from input, so their number is bounded and they contain nothing private. The facade and the recorder are
//! those of the `metrics` crates; without a recorder, as in tests and short commands, counting does nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use usher_mail::MailKind;

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
const QUEUE_PAUSED: &str = "usher_queue_paused";
const MAILS_WAIT: &str = "usher_mail_account_refused";
const CATALOG_DIFFERENCES: &str = "usher_catalog_differences";
const EVENTS_SENT: &str = "usher_event_deliveries_total";
const EVENTS_WAITING: &str = "usher_events_unnumbered";
const EVENTS_OLDEST: &str = "usher_events_oldest_unnumbered_age_seconds";
const EVENT_LAG: &str = "usher_event_numbering_lag_seconds";
const EVENTS_DEAD: &str = "usher_event_deliveries_dead";
const ENDPOINTS_DISABLED: &str = "usher_event_endpoints_disabled";
const BUILD_INFO: &str = "usher_build_info";

/// From half a millisecond to ten seconds, close to Svix's timeout of a webhook.
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From a millisecond to two minutes, about the longest that a job takes.
const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];
/// From a millisecond to a day: a job may have waited until the end of an outage.
const WAIT_BUCKETS: &[f64] = &[
    0.001, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0,
    86400.0,
];

named! {
    /// The result of a webhook request.
    WebhookOutcome("webhook outcome") {
        /// Stored and queued.
        Queued = "queued",
        /// Its id was known.
        Duplicate = "duplicate",
        /// usher does not handle its type.
        Ignored = "ignored",
        /// Its signature, id or timestamp is wrong.
        BadSignature = "bad_signature",
        /// Incomplete, not JSON, or without a type.
        Unreadable = "unreadable",
        /// Its body did not arrive in time.
        TimedOut = "timed_out",
        /// Larger than the limit.
        TooLarge = "too_large",
        /// It could not be stored in time; Svix will retry.
        StoreAway = "store_away",
    }
}

named! {
    /// The result of an attempt at a job.
    JobOutcome("job outcome") {
        /// Done.
        Done = "done",
        /// It will be retried.
        Retried = "retried",
        /// It is dead.
        Dead = "dead",
    }
}

named! {
    /// The result of an attempt to send a mail.
    MailOutcome("mail outcome") {
        /// The mail server accepted it.
        Sent = "sent",
        /// Temporarily rejected; it will be retried.
        Deferred = "deferred",
        /// The mail server rejects usher's account or setup; it will be retried.
        AccountRefused = "account_refused",
        /// Permanently rejected.
        Rejected = "rejected",
        /// No longer wanted when it was about to be sent.
        Suppressed = "suppressed",
    }
}

named! {
    /// The result of a try to send an event to an endpoint.
    EventOutcome("event outcome") {
        /// The endpoint answered 2xx.
        Delivered = "delivered",
        /// It will be tried again.
        Retried = "retried",
        /// No tries are left.
        Dead = "dead",
        /// The endpoint answered 410 and is disabled.
        Gone = "gone",
    }
}

named! {
    /// An event in the life of an invite.
    InviteEvent("invite event") {
        /// An address was invited.
        Created = "created",
        /// An address that already had an invite was invited again.
        Refreshed = "refreshed",
        /// Its mail was sent again.
        Resent = "resent",
        /// Shown in the banner.
        Flagged = "flagged",
        /// The banner was dismissed.
        Dismissed = "dismissed",
        /// Accepted, automatically or by the person.
        Accepted = "accepted",
        /// It could not be accepted, because the target, the role or the inviter has changed.
        Refused = "refused",
        /// Declined by the person.
        Declined = "declined",
        /// Revoked by the app.
        Revoked = "revoked",
        /// Its validity period ended.
        Expired = "expired",
    }
}

named! {
    /// The state of an unfinished job.
    QueueState("queue state") {
        /// Due, and waiting for a worker.
        Waiting = "waiting",
        /// Not due yet: waiting for a retry, or enqueued for later.
        Scheduled = "scheduled",
        /// Held by a worker.
        Running = "running",
    }
}

/// The label for events that usher does not handle, but those of Clerk's own organizations.
pub const OTHER_TYPE: &str = "other";
/// The label for requests that were rejected before their type was verified.
pub const UNKNOWN_TYPE: &str = "unknown";

/// Counts a webhook request. `event_type` is one of a fixed set: what usher handles, what belongs to
/// Clerk's own organizations, [`OTHER_TYPE`] or [`UNKNOWN_TYPE`].
pub fn webhook(event_type: &'static str, outcome: WebhookOutcome, took: Duration) {
    counter!(WEBHOOKS, "type" => event_type, "outcome" => outcome.as_str()).increment(1);
    histogram!(WEBHOOK_DURATION).record(took);
}

/// Records how long after its arrival an event was applied.
pub fn webhook_applied(lag: Duration) {
    histogram!(WEBHOOK_LAG).record(lag);
}

/// Records how long a job waited since it was due.
pub fn job_started(queue: &'static str, waited: Duration) {
    histogram!(JOB_WAIT, "queue" => queue).record(waited);
}

pub fn job_ended(queue: &'static str, outcome: JobOutcome, took: Duration) {
    counter!(JOBS, "queue" => queue, "outcome" => outcome.as_str()).increment(1);
    histogram!(JOB_DURATION, "queue" => queue).record(took);
}

pub fn email(mail: MailKind, outcome: MailOutcome) {
    counter!(EMAILS, "template" => mail.as_str(), "outcome" => outcome.as_str()).increment(1);
}

/// Counts events of invites; call it after the commit.
pub fn invites(event: InviteEvent, count: u64) {
    counter!(INVITES, "event" => event.as_str()).increment(count);
}

/// Counts a try to send an event to an endpoint of the app.
pub fn event_sent(outcome: EventOutcome) {
    counter!(EVENTS_SENT, "outcome" => outcome.as_str()).increment(1);
}

/// Records how long an event for the app waited for its number.
pub fn event_numbered(lag: Duration) {
    histogram!(EVENT_LAG).record(lag);
}

/// Events for the app that need attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EventsState {
    /// Without a number.
    pub unnumbered: u64,
    /// Seconds since the oldest of them happened; 0 without one.
    pub oldest_age: f64,
    /// Deliveries without tries left.
    pub dead: u64,
    pub disabled_endpoints: u64,
}

pub fn events_state(state: &EventsState) {
    gauge!(EVENTS_WAITING).set(state.unnumbered as f64);
    gauge!(EVENTS_OLDEST).set(state.oldest_age);
    gauge!(EVENTS_DEAD).set(state.dead as f64);
    gauge!(ENDPOINTS_DISABLED).set(state.disabled_endpoints as f64);
}

/// Starts every counter at zero, so that its first event shows as an increase.
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
    for outcome in EventOutcome::ALL {
        counter!(EVENTS_SENT, "outcome" => outcome.as_str()).increment(0);
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueDepth {
    pub queue: &'static str,
    /// Due and waiting.
    pub waiting: u64,
    pub scheduled: u64,
    /// Held by a worker.
    pub running: u64,
    pub dead: u64,
    /// Seconds since the oldest waiting job was due; 0 without one.
    pub oldest_age: f64,
}

pub fn queue_depth(queue: &QueueDepth) {
    let depth = |state: QueueState, count: u64| {
        gauge!(QUEUE_DEPTH, "queue" => queue.queue, "state" => state.as_str()).set(count as f64);
    };
    depth(QueueState::Waiting, queue.waiting);
    depth(QueueState::Scheduled, queue.scheduled);
    depth(QueueState::Running, queue.running);
    gauge!(DEAD_JOBS, "queue" => queue.queue).set(queue.dead as f64);
    gauge!(QUEUE_OLDEST, "queue" => queue.queue).set(queue.oldest_age);
}

/// Sets how many events have failed and wait for an operator.
pub fn failed_events(count: u64) {
    gauge!(FAILED_EVENTS).set(count as f64);
}

/// Sets whether a queue has a live worker in this process.
pub fn worker_alive(queue: &'static str, alive: bool) {
    gauge!(WORKERS_ALIVE, "queue" => queue).set(f64::from(u8::from(alive)));
}

pub fn database_up(up: bool) {
    gauge!(DATABASE_UP).set(f64::from(u8::from(up)));
}

pub fn queue_paused(queue: &'static str, paused: bool) {
    gauge!(QUEUE_PAUSED, "queue" => queue).set(f64::from(u8::from(paused)));
}

/// Sets whether the mail circuit breaker is open.
pub fn mails_wait(refused: bool) {
    gauge!(MAILS_WAIT).set(f64::from(u8::from(refused)));
}

/// Sets how much of the database's catalog is not as usher needs it.
pub fn catalog_differences(count: usize) {
    gauge!(CATALOG_DIFFERENCES).set(count as f64);
}

pub fn database_connections(pool: &'static str, in_use: usize, idle: usize) {
    gauge!(DATABASE_CONNECTIONS, "pool" => pool, "state" => "in_use").set(in_use as f64);
    gauge!(DATABASE_CONNECTIONS, "pool" => pool, "state" => "idle").set(idle as f64);
}

pub struct Recorder {
    handle: PrometheusHandle,
    process: Collector,
}

/// A process has one recorder, whatever it starts.
static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

impl Recorder {
    /// Installs the recorder, or returns the installed one.
    ///
    /// # Errors
    /// When this process has a recorder that is not usher's.
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

    /// All metrics, in Prometheus's text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Aggregates the measurements since the last call. Must be called every few seconds, or they accumulate in memory.
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
        (EVENT_LAG, WAIT_BUCKETS),
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
        CATALOG_DIFFERENCES,
        "Tables, columns and other things of the database that are not as usher needs them; /readyz names them."
    );
    describe_gauge!(QUEUE_PAUSED, "Whether an operator has paused a queue.");
    describe_gauge!(
        MAILS_WAIT,
        "Whether the mail server refuses the account, so that all mails wait."
    );
    describe_counter!(
        EVENTS_SENT,
        "Tries to send an event to an endpoint of the app, by how they ended."
    );
    describe_gauge!(EVENTS_WAITING, "Events for the app that wait for their number.");
    describe_gauge!(
        EVENTS_OLDEST,
        seconds,
        "For how long the oldest event for the app has waited for its number; 0 if none waits."
    );
    describe_histogram!(
        EVENT_LAG,
        seconds,
        "How long an event for the app waited for its number, since it happened."
    );
    describe_gauge!(
        EVENTS_DEAD,
        "Events that an endpoint of the app did not take within three days."
    );
    describe_gauge!(
        ENDPOINTS_DISABLED,
        "Endpoints of the app that answered 410 and get no events."
    );
    describe_gauge!(BUILD_INFO, "The version that runs; always 1.");
}
