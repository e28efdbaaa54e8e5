//! The mail circuit breaker. It is open while the mail server refuses usher itself, and all mails wait. One alarm is
//! logged when it opens, one mail at a time is sent as a half-open probe, and one line is logged when it closes.
//!
//! It is open while its row is in the database: so all processes open, probe and close it together.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use usher_mail::SendError;

use super::back_off::wait_after;
use super::send_mail::{self, Probed};
use super::{Context, JobError};
use crate::app::App;
use crate::store::StoreError;

/// How many rejections in a row open the circuit, if each alone might be caused by the recipient or by us.
const FAILURE_THRESHOLD: u32 = 3;
/// The maximum time between two probes.
const MAX_PROBE_INTERVAL: TimeDelta = TimeDelta::minutes(15);
/// How soon this process notices that another one opened or closed the circuit.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The timeout of reading the row. The probe has timeouts of its own, one for each step.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);
/// How many unwanted mails a probe skips.
const MAX_SKIPPED: usize = 1000;
/// For how many seconds an accepted mail shows that the server accepts our sender: a rejection in this time may concern
/// one recipient only.
const SUCCESS_WINDOW: i64 = 60;

/// What this process keeps in memory: a copy of whether the row is there, so that a mail need not read it, and what its
/// last mails have shown.
#[derive(Default)]
pub struct CircuitBreaker {
    open: watch::Sender<bool>,
    failures: AtomicU32,
    /// When the server last accepted a mail, in Unix seconds.
    last_success: AtomicI64,
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

    /// Records how a mail ended; `true` if that opens the circuit.
    pub(super) fn record(&self, error: Option<&SendError>, now: DateTime<Utc>) -> bool {
        match error {
            // Accepted, or refused for the recipient's or the mail's own sake.
            None | Some(SendError::Bounced(_) | SendError::Rejected(_)) => {
                self.failures.store(0, Ordering::Relaxed);
                self.last_success.store(now.timestamp(), Ordering::Relaxed);
                false
            }
            Some(SendError::Account(_)) => true,
            Some(SendError::Sender(_)) if !self.succeeded_recently(now) => true,
            Some(SendError::Sender(_) | SendError::Policy(_)) => {
                self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURE_THRESHOLD
            }
            Some(SendError::Temporary(_) | SendError::Unaddressable(_)) => false,
        }
    }

    fn succeeded_recently(&self, now: DateTime<Utc>) -> bool {
        let last = self.last_success.load(Ordering::Relaxed);
        now.timestamp().saturating_sub(last) < SUCCESS_WINDOW
    }

    /// Opens the circuit. Of any number of calls, in all processes, one logs the alarm.
    pub(super) async fn open(&self, app: &App, why: &str) -> Result<(), StoreError> {
        if self.is_open() {
            return Ok(());
        }
        let probe_at = app.clock.now() + wait_after(1, rand::random());
        let opened = app
            .store
            .transaction(why, |tx, why| tx.open_circuit(why, probe_at).boxed())
            .await?;
        self.set_open(true);
        if opened {
            tracing::error!(
                "mail circuit breaker open: all mails wait until SMTP_URL, MAIL_FROM or the account is fixed: {why}"
            );
        }
        Ok(())
    }

    async fn close(&self, app: &App) -> Result<(), StoreError> {
        let closed = app.store.transaction((), |tx, ()| tx.close_circuit().boxed()).await?;
        self.set_open(false);
        if let Some(circuit) = closed {
            let lasted = app.clock.now() - circuit.since;
            tracing::error!(
                "mail circuit breaker closed after {} s: the mail server accepts mail again; waiting mails are being sent",
                lasted.num_seconds()
            );
        }
        Ok(())
    }

    fn set_open(&self, open: bool) {
        let changed = self.open.send_if_modified(|was| std::mem::replace(was, open) != open);
        if changed && !open {
            self.failures.store(0, Ordering::Relaxed);
        }
    }
}

/// Keeps the copy of the state up to date and sends probes, until cancelled.
pub async fn run_circuit_breaker(context: Context, stop: CancellationToken) {
    let mut polls = tokio::time::interval(POLL_INTERVAL);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // A new process may have a corrected configuration, so it does not wait until the next probe is due.
    let mut ahead = MAX_PROBE_INTERVAL;
    // A task of its own: a probe may take long, and in the meantime the other processes' results must be read.
    let mut probe: Option<AbortOnDropHandle<()>> = None;
    while stop.run_until_cancelled(polls.tick()).await.is_some() {
        let is_probing = probe.as_ref().is_some_and(|probe| !probe.is_finished());
        let due_by = (!is_probing).then(|| context.app.clock.now() + ahead);
        match context
            .app
            .store
            .with_timeout(POLL_TIMEOUT, poll(&context, due_by))
            .await
        {
            Ok(claimed) => {
                ahead = TimeDelta::zero();
                if claimed {
                    probe = Some(AbortOnDropHandle::new(tokio::spawn(probe_and_log(context.clone()))));
                }
            }
            Err(error) => tracing::warn!(error = %error, "could not read the mail circuit breaker"),
        }
    }
    // If a probe mail is being sent, waits for the server's answer as long as the stop allows.
    if let Some(probe) = probe {
        let _ = probe.await;
    }
}

async fn probe_and_log(context: Context) {
    if let Err(error) = probe(&context).await {
        tracing::warn!(error = %error, "could not probe for the mail circuit breaker");
    }
}

/// Reads the state from the database, and sends a probe if one is due.
///
/// # Errors
/// [`JobError`]; then call it again.
pub async fn poll_circuit_breaker(context: &Context) -> Result<(), JobError> {
    if poll(context, Some(context.app.clock.now())).await? {
        probe(context).await?;
    }
    Ok(())
}

/// Reads the state from the database; `true` if a probe is due by then and is this process's to send.
async fn poll(context: &Context, due_by: Option<DateTime<Utc>>) -> Result<bool, StoreError> {
    let app = &context.app;
    let circuit = app.store.read().await?.circuit_opened().await?;
    context.breaker.set_open(circuit.is_some());
    let is_due = |probe_at| due_by.is_some_and(|due_by| probe_at <= due_by);
    let Some(circuit) = circuit.filter(|circuit| is_due(circuit.probe_at)) else {
        return Ok(false);
    };
    let wait = wait_after(circuit.probes.unsigned_abs().saturating_add(1), rand::random());
    let next = app.clock.now() + wait.min(MAX_PROBE_INTERVAL);
    app.store
        .transaction(circuit.probes, |tx, probes| {
            tx.claim_circuit_probe(*probes, next).boxed()
        })
        .await
}

/// Closes the circuit if the server accepts mail from us.
async fn probe(context: &Context) -> Result<(), JobError> {
    if server_accepts_mail(context).await? {
        context.breaker.close(&context.app).await?;
    }
    Ok(())
}

/// Probes with the mail that was tried longest ago, so that one bad mail can't block all others; without any mail,
/// checks the login.
async fn server_accepts_mail(context: &Context) -> Result<bool, JobError> {
    for _ in 0..MAX_SKIPPED {
        let mail = context.app.store.read().await?.longest_untried_mail().await?;
        let Some(mail) = mail else {
            return Ok(context.app.mailer.check().await.is_ok());
        };
        match send_mail::probe(context, mail).await? {
            Probed::Accepted => return Ok(true),
            Probed::Refused => return Ok(false),
            Probed::NotSent => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_opens_the_circuit_by_what_the_last_mails_have_shown() {
        let error = |of: fn(String) -> SendError| Some(of("550".to_owned()));
        let (account, sender, policy) = (
            error(SendError::Account),
            error(SendError::Sender),
            error(SendError::Policy),
        );
        let (temporary, bounced) = (error(SendError::Temporary), error(SendError::Bounced));
        for (what, mails) in [
            ("an account, at once", vec![(0, &None, false), (0, &account, true)]),
            ("a sender, at once", vec![(0, &sender, true)]),
            (
                "a sender, a minute after a success",
                vec![(0, &None, false), (59, &sender, false), (60, &sender, true)],
            ),
            (
                "a sender, the third time",
                vec![
                    (0, &bounced, false),
                    (1, &sender, false),
                    (1, &sender, false),
                    (1, &sender, true),
                ],
            ),
            (
                "a policy, the third time",
                vec![
                    (0, &policy, false),
                    (900, &policy, false),
                    (1800, &temporary, false),
                    (1800, &policy, true),
                ],
            ),
            (
                "a policy, with a success between",
                vec![
                    (0, &policy, false),
                    (1, &policy, false),
                    (2, &None, false),
                    (3, &policy, false),
                ],
            ),
        ] {
            let breaker = CircuitBreaker::default();
            for (number, (second, error, opens)) in mails.into_iter().enumerate() {
                let now = DateTime::from_timestamp(1_790_000_000 + second, 0).unwrap();
                assert_eq!(breaker.record(error.as_ref(), now), opens, "{what}: {number}");
            }
        }
    }
}
