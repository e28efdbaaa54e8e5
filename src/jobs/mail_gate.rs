//! The gate that all mails wait at while the mail server refuses the account: one alarm when it closes, one mail at a
//! time to try it, one line when it opens. What is known lies in the database, so that all processes close, try and open
//! as one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::back_off::wait_after;
use super::{Context, JobError, outgoing};
use crate::app::App;
use crate::store::StoreError;

/// Refusals in a row, of mails that the server would otherwise have taken, which may be the recipient's or ours.
const DOUBTS: u32 = 3;
/// Between two tries at most.
const LONGEST: TimeDelta = TimeDelta::minutes(15);
/// How soon this process sees that another one closed or opened the gate.
const LOOK: Duration = Duration::from_secs(2);
/// How long a look may take, the try of a mail in it.
const LOOK_LIMIT: Duration = Duration::from_secs(150);

/// Whether mails may go out, as far as this process knows.
pub struct MailGate {
    closed: watch::Sender<bool>,
    doubts: AtomicU32,
}

impl Default for MailGate {
    fn default() -> Self {
        Self {
            closed: watch::Sender::new(false),
            doubts: AtomicU32::new(0),
        }
    }
}

impl MailGate {
    /// Whether all mails wait.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Returns once the gate is closed, or open.
    pub async fn until(&self, closed: bool) {
        let mut state = self.closed.subscribe();
        // The sender lives as long as `self`.
        let _ = state.wait_for(|is_closed| *is_closed == closed).await;
    }

    /// The server refuses the account. However many mails hear so, one alarm is raised.
    pub(super) async fn close(&self, app: &App, why: &str) -> Result<(), StoreError> {
        if self.is_closed() {
            return Ok(());
        }
        let probe_at = app.clock.now() + wait_after(1, rand::random());
        let is_news = app
            .store
            .transaction(why, |tx, why| tx.begin_mail_trouble(why, probe_at).boxed())
            .await?;
        self.closed.send_replace(true);
        if is_news {
            tracing::error!("all mails wait until SMTP_URL, MAIL_FROM or the account is put right: {why}");
        }
        Ok(())
    }

    /// A refusal that may be the recipient's or ours; `true` once there have been so many in a row that it is ours.
    pub(super) fn doubt(&self) -> bool {
        self.doubts.fetch_add(1, Ordering::Relaxed) + 1 >= DOUBTS
    }

    /// The server takes mail from us, whatever it thought of one recipient.
    pub(super) fn trust(&self) {
        self.doubts.store(0, Ordering::Relaxed);
    }
}

/// Looks after the gate until cancelled. Whoever starts may bring the cure, so a try is due at once.
pub async fn keep_mail_gate(context: Context, stop: CancellationToken) {
    let store = &context.app.store;
    let hasten = store.transaction((), |tx, ()| tx.hasten_mail_probe().boxed());
    if let Err(error) = store.in_time(LOOK, hasten).await {
        tracing::warn!(error = %error, "could not hasten the next mail's try");
    }
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let look = tokio::time::timeout(LOOK_LIMIT, look_after_mail(&context)).await;
        if let Err(error) = look.unwrap_or_else(|_| Err(JobError::Retry("no answer came".to_owned()))) {
            tracing::warn!(error = %error, "could not look whether mails have to wait");
        }
    }
}

/// Takes over what other processes found out, and tries the account with one mail if that is due.
///
/// # Errors
/// [`JobError`]; to be called again.
pub async fn look_after_mail(context: &Context) -> Result<(), JobError> {
    let app = &context.app;
    let mut tx = app.store.read().await.map_err(JobError::retry)?;
    let trouble = tx.mail_trouble().await.map_err(JobError::retry)?;
    drop(tx);
    context.gate.closed.send_if_modified(|closed| {
        let was = std::mem::replace(closed, trouble.is_some());
        was != *closed
    });
    let Some(trouble) = trouble.filter(|trouble| trouble.probe_at <= app.clock.now()) else {
        return Ok(());
    };
    let probes = trouble.probes.unsigned_abs().saturating_add(1);
    let next = app.clock.now() + wait_after(probes, rand::random()).min(LONGEST);
    let is_ours = app
        .store
        .transaction((), |tx, ()| tx.take_mail_probe(next).boxed())
        .await;
    if is_ours.map_err(JobError::retry)? && server_takes_mail(context).await? {
        open(context).await.map_err(JobError::retry)?;
    }
    Ok(())
}

/// Tries the mail that was tried longest ago, so that one that is to blame itself does not keep all others; without any,
/// the login.
async fn server_takes_mail(context: &Context) -> Result<bool, JobError> {
    loop {
        let mut tx = context.app.store.read().await.map_err(JobError::retry)?;
        let mail = tx.longest_untried_mail().await.map_err(JobError::retry)?;
        drop(tx);
        let Some(mail) = mail else {
            return Ok(context.app.mailer.check().await.is_ok());
        };
        if let Some(is_taken) = outgoing::probe(context, mail).await? {
            return Ok(is_taken);
        }
    }
}

async fn open(context: &Context) -> Result<(), StoreError> {
    let store = &context.app.store;
    let ended = store.transaction((), |tx, ()| tx.end_mail_trouble().boxed()).await?;
    context.gate.trust();
    context.gate.closed.send_replace(false);
    if let Some(trouble) = ended {
        let lasted = context.app.clock.now() - trouble.since;
        tracing::error!(
            "the mail server takes our mail again, after {} s; the waiting mails go out",
            lasted.num_seconds()
        );
    }
    Ok(())
}
