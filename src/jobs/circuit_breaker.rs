//! The mail circuit breaker. It is open while the mail server rejects the account, and all mails wait. One alarm is
//! logged when it opens, one mail at a time is sent as a half-open probe, and one line is logged when it closes. Its
//! state is in the database, so that all processes open, probe and close it together.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::back_off::wait_after;
use super::send_mail::{self, Probed};
use super::{Context, JobError};
use crate::app::App;
use crate::store::StoreError;

/// How many rejections in a row open the circuit, if each alone might be caused by the recipient or by our account.
const FAILURE_THRESHOLD: u32 = 3;
/// The maximum time between two probes.
const MAX_PROBE_INTERVAL: TimeDelta = TimeDelta::minutes(15);
/// How soon this process notices that another one opened or closed the circuit.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The timeout of reading the state. The probe has timeouts of its own, one for each step.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);
/// How many unwanted mails a probe skips.
const MAX_SKIPPED: usize = 1000;
/// For how many seconds an accepted mail shows that the account works: a rejection in this time may concern one
/// recipient only.
const SUCCESS_WINDOW: i64 = 60;

/// The circuit breaker's state as far as this process knows.
pub struct CircuitBreaker {
    open: watch::Sender<bool>,
    failures: AtomicU32,
    /// When the server last accepted a mail, in Unix seconds.
    last_success: AtomicI64,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            open: watch::Sender::new(false),
            failures: AtomicU32::new(0),
            last_success: AtomicI64::new(i64::MIN),
        }
    }
}

impl CircuitBreaker {
    /// Whether all mails wait.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Waits until the circuit is open (`true`) or closed (`false`).
    pub async fn wait_until_open(&self, open: bool) {
        let mut state = self.open.subscribe();
        // The sender lives as long as `self`.
        let _ = state.wait_for(|is_open| *is_open == open).await;
    }

    /// Opens the circuit because the server rejects the account. Of any number of calls, one logs the alarm.
    pub(super) async fn trip(&self, app: &App, why: &str) -> Result<(), StoreError> {
        if self.is_open() {
            return Ok(());
        }
        let probe_at = app.clock.now() + wait_after(1, rand::random());
        let is_news = app
            .store
            .transaction(why, |tx, why| tx.open_circuit(why, probe_at).boxed())
            .await?;
        self.open.send_replace(true);
        if is_news {
            tracing::error!(
                "mail circuit breaker open: all mails wait until SMTP_URL, MAIL_FROM or the account is fixed: {why}"
            );
        }
        Ok(())
    }

    /// Counts a rejection that may be caused by the recipient or by our account; `true` once there are enough in a row
    /// to blame the account.
    pub(super) fn record_failure(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURE_THRESHOLD
    }

    /// The server accepted a mail from us, or rejected only its recipient.
    pub(super) fn record_success(&self, now: DateTime<Utc>) {
        self.failures.store(0, Ordering::Relaxed);
        self.last_success.store(now.timestamp(), Ordering::Relaxed);
    }

    /// Whether the server accepted a mail so recently that a rejection of our account is doubtful.
    pub(super) fn contradicts(&self, now: DateTime<Utc>) -> bool {
        now.timestamp()
            .saturating_sub(self.last_success.load(Ordering::Relaxed))
            < SUCCESS_WINDOW
    }
}

/// Keeps the state up to date and sends probes until cancelled. A new process may have a corrected configuration, so a
/// probe is due at once.
pub async fn run_circuit_breaker(context: Context, stop: CancellationToken) {
    let store = &context.app.store;
    let hasten = store.transaction((), |tx, ()| tx.expedite_circuit_probe().boxed());
    if let Err(error) = store.with_timeout(POLL_INTERVAL, hasten).await {
        tracing::warn!(error = %error, "could not reschedule the mail circuit breaker's next probe");
    }
    let mut polls = tokio::time::interval(POLL_INTERVAL);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // A task of its own: a probe may take long, and in the meantime the other processes' results must be read.
    let mut probe: Option<AbortOnDropHandle<()>> = None;
    while stop.run_until_cancelled(polls.tick()).await.is_some() {
        let is_probing = probe.as_ref().is_some_and(|probe| !probe.is_finished());
        let look = tokio::time::timeout(POLL_TIMEOUT, look(&context, !is_probing)).await;
        match look.unwrap_or_else(|_| Err(JobError::Retry("no answer came".to_owned()))) {
            Ok(true) => probe = Some(AbortOnDropHandle::new(tokio::spawn(try_and_tell(context.clone())))),
            Ok(false) => {}
            Err(error) => tracing::warn!(error = %error, "could not read the mail circuit breaker"),
        }
    }
    // If a probe mail is being sent, waits for the server's answer as long as the stop allows.
    if let Some(probe) = probe {
        let _ = probe.await;
    }
}

async fn try_and_tell(context: Context) {
    if let Err(error) = try_the_account(&context).await {
        tracing::warn!(error = %error, "could not start a probe of the mail circuit breaker");
    }
}

/// Reads the state from the database, and sends a probe if one is due.
///
/// # Errors
/// [`JobError`]; then call it again.
pub async fn look_after_mail(context: &Context) -> Result<(), JobError> {
    if look(context, true).await? {
        try_the_account(context).await?;
    }
    Ok(())
}

/// Reads the state from the database; `true` if this process must probe now.
async fn look(context: &Context, may_try: bool) -> Result<bool, JobError> {
    let app = &context.app;
    let mut tx = app.store.read().await.map_err(JobError::retry)?;
    let trouble = tx.circuit_opened().await.map_err(JobError::retry)?;
    drop(tx);
    context.breaker.open.send_if_modified(|closed| {
        let was = std::mem::replace(closed, trouble.is_some());
        was != *closed
    });
    let Some(trouble) = trouble.filter(|trouble| may_try && trouble.probe_at <= app.clock.now()) else {
        return Ok(false);
    };
    let probes = trouble.probes.unsigned_abs().saturating_add(1);
    let next = app.clock.now() + wait_after(probes, rand::random()).min(MAX_PROBE_INTERVAL);
    let is_ours = app
        .store
        .transaction((), |tx, ()| tx.claim_circuit_probe(next).boxed())
        .await;
    is_ours.map_err(JobError::retry)
}

async fn try_the_account(context: &Context) -> Result<(), JobError> {
    if server_takes_mail(context).await? {
        open(context).await.map_err(JobError::retry)?;
    }
    Ok(())
}

/// Probes with the mail that was tried longest ago, so that one bad mail can't block all others; without any mail,
/// checks the login.
async fn server_takes_mail(context: &Context) -> Result<bool, JobError> {
    let mut last = None;
    for _ in 0..MAX_SKIPPED {
        let mut tx = context.app.store.read().await.map_err(JobError::retry)?;
        let mail = tx.longest_untried_mail().await.map_err(JobError::retry)?;
        drop(tx);
        let Some(mail) = mail else {
            return Ok(context.app.mailer.check().await.is_ok());
        };
        // This mail should have been suppressed; asking again would return no other mail.
        if last.replace(mail) == Some(mail) {
            break;
        }
        match send_mail::probe(context, mail).await? {
            Probed::Taken => return Ok(true),
            Probed::Refused => return Ok(false),
            Probed::NotSent => {}
        }
    }
    Ok(false)
}

async fn open(context: &Context) -> Result<(), StoreError> {
    let store = &context.app.store;
    let ended = store.transaction((), |tx, ()| tx.close_circuit().boxed()).await?;
    context.breaker.failures.store(0, Ordering::Relaxed);
    context.breaker.open.send_replace(false);
    if let Some(trouble) = ended {
        let lasted = context.app.clock.now() - trouble.since;
        tracing::error!(
            "mail circuit breaker closed after {} s: the mail server accepts mail again; waiting mails are being sent",
            lasted.num_seconds()
        );
    }
    Ok(())
}
