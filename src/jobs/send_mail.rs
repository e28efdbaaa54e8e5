//! `send-mail`: sends one mail, if it is still wanted, with its invite's data at the time of sending.
//!
//! [`unwanted`] decides whether a mail is still wanted, [`settle`] what a refusal means for it.

mod message;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::back_off::wait_after;
use super::{Context, Job, JobError};
use crate::app::App;
use crate::batch::{BatchHandler, Batcher, Locks};
use crate::config::Config;
use crate::invites::Status;
use crate::invites::accept::Obstacle;
use crate::invites::email::EmailAddress;
use crate::invites::reminders::is_in_time;
use crate::metrics::{self, MailOutcome};
use crate::store::{DeliveryKind, DeliveryNote, DeliveryStatus, Queue, QueuedMail, StoreError};
use usher_mail::{MailPermit, MessageIdentity, Rendered, SendError, Sent};

/// How many mails are loaded, or their results stored, at once. One by one, which was measured, is a third of the mails
/// a second on SQLite and a quarter on Postgres: jobs that end together are also fetched and acknowledged together.
const MAX_BATCH_SIZE: usize = 256;
/// How long a result waits for others; no caller is in a hurry. If the process is killed in between, these mails are
/// sent again.
const LINGER: Duration = Duration::from_millis(10);
/// How long a mail waits for a connection before its job is deferred: while it is held here, other processes can't send
/// it.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long a stopping process waits for the server's answer to a mail that is being sent.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// The timeout of each access to the database: the job's time limit is meant for mail servers.
const DATABASE_LIMIT: Duration = Duration::from_secs(8);
/// The waits between attempts to store that a mail was sent.
const NOTE_AGAIN: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];
/// How long a job is deferred that was started while all mails wait, or whose process stops before it gets a permit.
/// Longer than a process takes to stop, so that it does not fetch the job again.
const DEFER: TimeDelta = TimeDelta::seconds(30);

/// Data of a mail that is older than this is loaded again before sending: its invite may have been answered.
const FRESH: Duration = Duration::from_secs(2);

const CUT_OFF: &str = "not sent for now: usher was stopped before the mail server answered";

const GONE: &str = "no longer wanted: what it speaks of is gone";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendMail {
    pub delivery_id: Uuid,
}

impl Job for SendMail {
    const QUEUE: Queue = Queue::SendMail;
    /// The time for the permit, then for the server. Every step has a timeout of its own
    /// (`crates/mail/src/smtp/connection.rs`); together they are an hour and a quarter if a server uses all of each,
    /// first on a reused connection and then on a new one. Cancelling between the content and the server's answer would
    /// deliver the mail twice, so this is longer.
    const TIME_LIMIT: Duration = Duration::from_secs(90 * 60);
    /// A start while all mails wait is no attempt. Attempts are counted on the delivery, up to [`Queue::MAX_ATTEMPTS`].
    const MAX_STARTS: u32 = 10 * Queue::MAX_ATTEMPTS.unsigned_abs();
    const IS_MAIL: bool = true;

    fn about(&self) -> Option<String> {
        Some(self.delivery_id.to_string())
    }

    async fn run(&self, context: &Context) -> Result<(), JobError> {
        if context.breaker.is_open() {
            return Err(defer(context));
        }
        let Some(_in_progress) = context.mails.begin(self.delivery_id) else {
            return Err(defer(context));
        };
        let loaded_at = Instant::now();
        let Some(mut mail) = load(context, self.delivery_id).await? else {
            return Ok(());
        };
        let mut permit = permit(context).await?;
        if loaded_at.elapsed() > FRESH {
            match load(context, self.delivery_id).await? {
                Some(reloaded) => mail = reloaded,
                None => return Ok(()),
            }
        }
        let rendered = render(context, &mail).await?;
        let sent = send(context, &mut permit, &mail, &rendered).await;
        drop(permit);
        match sent {
            Some(sent) => settle(context, &mail, sent).await,
            // If the server accepted the mail, the next attempt sends a copy with the same `Message-ID`.
            None => later(context, &mail, CUT_OFF.to_owned()).await,
        }
    }

    async fn gave_up(&self, context: &Context, why: &str) -> Result<(), JobError> {
        fail(context, self.delivery_id, why).await
    }
}

/// Loads mails and stores their results in batches, and knows which ones are being sent: a mail's job and a probe must
/// not both send it.
pub(super) struct Mails {
    loads: Batcher<Uuid, Option<QueuedMail>>,
    notes: Batcher<DeliveryNote, ()>,
    in_progress: Mutex<HashSet<Uuid>>,
}

struct InProgress<'a> {
    mails: &'a Mails,
    delivery_id: Uuid,
}

struct LoadHandler(App);

impl BatchHandler<Uuid, Option<QueuedMail>> for LoadHandler {
    async fn commit(&self, ids: &[Uuid], locks: Locks) -> Result<Vec<Option<QueuedMail>>, StoreError> {
        let store = self.0.store.with_lock_wait(locks.wait);
        let load = async { store.read().await?.queued_mails(ids).await };
        let mut found = store.with_timeout(DATABASE_LIMIT, load).await?;
        // A job that runs twice may ask for the same id twice.
        let mut of = |id: &Uuid| {
            let position = found.iter().position(|mail| mail.delivery_id == *id)?;
            Some(found.swap_remove(position))
        };
        Ok(ids.iter().map(&mut of).collect())
    }
}

struct NoteHandler(App);

impl BatchHandler<DeliveryNote, ()> for NoteHandler {
    async fn commit(&self, notes: &[DeliveryNote], locks: Locks) -> Result<Vec<()>, StoreError> {
        let store = self.0.store.with_lock_wait(locks.wait);
        let note = store.transaction(notes, |tx, notes| tx.note_deliveries(notes).boxed());
        store.with_timeout(DATABASE_LIMIT, note).await?;
        Ok(vec![(); notes.len()])
    }
}

impl Mails {
    pub(super) fn start(app: &App) -> Self {
        Self {
            loads: Batcher::start(1, MAX_BATCH_SIZE, LoadHandler(app.clone())),
            notes: Batcher::start_with_linger(1, MAX_BATCH_SIZE, LINGER, NoteHandler(app.clone())),
            in_progress: Mutex::default(),
        }
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.in_progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if the mail is being sent already.
    fn begin(&self, delivery_id: Uuid) -> Option<InProgress<'_>> {
        let mails = self;
        self.ids()
            .insert(delivery_id)
            .then_some(InProgress { mails, delivery_id })
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.mails.ids().remove(&self.delivery_id);
    }
}

/// Waits until a connection is free. Fails when the process stops or all mails have to wait, because starting would be
/// useless.
async fn permit(context: &Context) -> Result<MailPermit, JobError> {
    let permit = tokio::time::timeout(PERMIT_TIMEOUT, context.app.mailer.permit());
    match context.stopping.run_until_cancelled(permit).await {
        Some(Ok(permit)) if !context.breaker.is_open() => Ok(permit),
        _ => Err(defer(context)),
    }
}

/// The result of a probe.
pub(super) enum Probed {
    /// The server accepts mail from us, even if it rejected this one.
    Accepted,
    Refused,
    /// This mail is no longer wanted.
    NotSent,
}

/// Probes with a real mail while all others wait.
pub(super) async fn probe(context: &Context, delivery_id: Uuid) -> Result<Probed, JobError> {
    // Its job started before the circuit opened and will see the result.
    let Some(_in_progress) = context.mails.begin(delivery_id) else {
        return Ok(Probed::Refused);
    };
    let Some(mail) = load(context, delivery_id).await? else {
        return Ok(Probed::NotSent);
    };
    let rendered = match render(context, &mail).await {
        Err(JobError::GiveUp(_)) => return Ok(Probed::NotSent),
        rendered => rendered?,
    };
    let mut permit = context.app.mailer.permit().await;
    let Some(sent) = send(context, &mut permit, &mail, &rendered).await else {
        return Ok(Probed::Refused);
    };
    drop(permit);
    let is_accepted = matches!(sent, Ok(_) | Err(SendError::Bounced(_) | SendError::Rejected(_)));
    match settle(context, &mail, sent).await {
        // The result is stored on the delivery; its job then finds nothing to do, or is retried with all others.
        Ok(()) | Err(JobError::GiveUp(_) | JobError::RetryAt { .. } | JobError::Wait { .. }) if is_accepted => {
            Ok(Probed::Accepted)
        }
        Ok(()) | Err(JobError::GiveUp(_) | JobError::RetryAt { .. } | JobError::Wait { .. }) => Ok(Probed::Refused),
        Err(error) => Err(error),
    }
}

async fn fail(context: &Context, delivery_id: Uuid, why: &str) -> Result<(), JobError> {
    note(context, delivery_id, DeliveryStatus::Failed, true, why).await
}

/// `None` if there is nothing left to send.
async fn load(context: &Context, delivery_id: Uuid) -> Result<Option<QueuedMail>, JobError> {
    let loaded = context.mails.loads.submit(delivery_id).await;
    let Some(mail) = loaded? else {
        // It was sent in the meantime, which this does not change; or its invite no longer exists, and it would wait
        // for ever.
        note(context, delivery_id, DeliveryStatus::Suppressed, false, GONE).await?;
        return Ok(None);
    };
    let app = &context.app;
    let Some(why) = unwanted(&mail, &app.config, app.clock.now()) else {
        return Ok(Some(mail));
    };
    note(context, delivery_id, DeliveryStatus::Suppressed, false, &why).await?;
    metrics::email(message::kind(&mail), MailOutcome::Suppressed);
    Ok(None)
}

/// Gives up a mail that can't be rendered.
async fn render(context: &Context, mail: &QueuedMail) -> Result<Rendered, JobError> {
    match message::render(&context.app, mail) {
        Ok(rendered) => Ok(rendered),
        Err(error) => Err(give_up(context, mail.delivery_id, error.to_string()).await),
    }
}

/// Why a mail is no longer wanted, if so. Checked before sending: much may have happened since it was queued.
fn unwanted(mail: &QueuedMail, config: &Config, now: DateTime<Utc>) -> Option<String> {
    let status = mail.invite.status_at(now);
    let answered = || format!("no longer wanted: the invite is {status}");
    let obstacle = mail.facts.obstacle(&config.roles);
    match mail.delivery_kind {
        DeliveryKind::AcceptedNotice if status != Status::Accepted => return Some(answered()),
        DeliveryKind::AcceptedNotice if !mail.facts.target_exists => {
            return Some(no_longer_wanted(Obstacle::TargetDeleted));
        }
        DeliveryKind::AcceptedNotice if mail.facts.inviter.inviter_acts == Some(false) => {
            return Some(no_longer_wanted(Obstacle::InviterBlocked));
        }
        DeliveryKind::AcceptedNotice => {}
        _ if status != Status::Pending => return Some(answered()),
        _ if !mail.context.is_newest => return Some("no longer wanted: a newer mail takes its place".to_owned()),
        // No mail is better than one whose link can't be accepted.
        _ if obstacle.is_some() => return obstacle.map(no_longer_wanted),
        DeliveryKind::Reminder if config.invite_reminders.are_off() => {
            return Some("no longer wanted: reminders were switched off".to_owned());
        }
        DeliveryKind::Reminder if !is_in_time(now, mail.invite.expires_at) => {
            return Some("no longer wanted: the invite is about to expire".to_owned());
        }
        _ => {}
    }
    let reason = mail.context.suppressed_for.as_deref()?;
    Some(format!(
        "the address refused mail for good; resend to try it again ({reason})"
    ))
}

fn no_longer_wanted(obstacle: Obstacle) -> String {
    format!("no longer wanted: {}", obstacle.text())
}

/// A crash between the server's acceptance and our commit sends one more copy, recognizable by its `Message-ID`. `None`
/// if the process stops and no answer came in time.
async fn send(
    context: &Context,
    permit: &mut MailPermit,
    mail: &QueuedMail,
    rendered: &Rendered,
) -> Option<Result<Sent, SendError>> {
    let identity = MessageIdentity {
        message_id: mail.message_id.clone(),
        date: mail.queued_at,
    };
    let patience = async {
        context.stopping.cancelled().await;
        tokio::time::sleep(LAST_ANSWER).await;
    };
    let sent = tokio::select! {
        sent = context.app.mailer.send_in(permit, &mail.to_email, &identity, rendered) => sent,
        () = patience => {
            tracing::warn!(
                delivery.id = %mail.delivery_id,
                "the mail server did not answer within {} s of the stop; the mail will be sent again, with the same Message-ID",
                LAST_ANSWER.as_secs()
            );
            return None;
        }
    };
    metrics::email(message::kind(mail), outcome(&sent));
    if let Ok(sent) = &sent {
        tracing::info!(delivery.id = %mail.delivery_id, "mail sent: {}", sent.description);
    }
    Some(sent)
}

fn outcome(sent: &Result<Sent, SendError>) -> MailOutcome {
    match sent {
        Ok(_) => MailOutcome::Sent,
        Err(SendError::Temporary(_)) => MailOutcome::Deferred,
        Err(SendError::Account(_) | SendError::Sender(_) | SendError::Policy(_)) => MailOutcome::AccountRefused,
        Err(SendError::Rejected(_) | SendError::Bounced(_) | SendError::Unaddressable(_)) => MailOutcome::Rejected,
    }
}

/// Applies the result of an attempt to the circuit breaker, the mail and the address.
async fn settle(context: &Context, mail: &QueuedMail, sent: Result<Sent, SendError>) -> Result<(), JobError> {
    let id = mail.delivery_id;
    let opens = context.breaker.record(sent.as_ref().err(), context.app.clock.now());
    let error = match sent {
        Ok(sent) => return note_sent(context, id, sent).await,
        Err(error) => error,
    };
    let why = error.to_string();
    if opens {
        context.breaker.open(&context.app, &why).await?;
        note(context, id, DeliveryStatus::Queued, false, &why).await?;
        return Err(defer(context));
    }
    match error {
        SendError::Temporary(_) | SendError::Account(_) | SendError::Sender(_) | SendError::Policy(_) => {
            later(context, mail, why).await
        }
        // The delivery has failed and the job has done its work, so it is no dead job: no operator has to look at it.
        SendError::Bounced(_) => {
            suppress_address(context, mail, &why).await?;
            refused(context, id, &why).await
        }
        SendError::Rejected(_) | SendError::Unaddressable(_) => refused(context, id, &why).await,
    }
}

async fn refused(context: &Context, delivery_id: Uuid, why: &str) -> Result<(), JobError> {
    fail(context, delivery_id, why).await?;
    tracing::warn!("the mail server refused a mail permanently; the delivery failed: {why}");
    Ok(())
}

/// Stores that a mail was sent. Waits for a database that is unavailable for a moment, to avoid a second copy.
async fn note_sent(context: &Context, delivery_id: Uuid, sent: Sent) -> Result<(), JobError> {
    let sent = DeliveryNote {
        delivery_id,
        status: DeliveryStatus::Sent,
        counts: true,
        error: None,
        reply: Some(sent.description),
    };
    for wait in NOTE_AGAIN {
        if context.mails.notes.submit(sent.clone()).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(wait).await;
    }
    let noted = context.mails.notes.submit(sent).await;
    noted.map_err(|error| JobError::Retry(format!("it was sent, but that could not be stored: {error}")))
}

/// Retries by the delivery's own count of attempts: a wait while the circuit is open is no attempt.
async fn later(context: &Context, mail: &QueuedMail, why: String) -> Result<(), JobError> {
    let attempt = mail.delivery_attempts.saturating_add(1);
    if attempt >= Queue::MAX_ATTEMPTS {
        return Err(give_up(context, mail.delivery_id, format!("{why}; no attempts are left")).await);
    }
    note(context, mail.delivery_id, DeliveryStatus::Queued, true, &why).await?;
    let wait = wait_after(attempt.unsigned_abs(), rand::random());
    Err(JobError::RetryAt {
        at: context.app.clock.now() + wait,
        why,
    })
}

fn defer(context: &Context) -> JobError {
    JobError::Wait {
        until: context.app.clock.now() + DEFER,
    }
}

async fn suppress_address(context: &Context, mail: &QueuedMail, why: &str) -> Result<(), JobError> {
    let Ok(address) = EmailAddress::parse(&mail.to_email) else {
        return Ok(());
    };
    let store = &context.app.store;
    let suppressed = store.transaction((address.key(), why), |tx, (key, why)| {
        tx.suppress_address(key, why).boxed()
    });
    Ok(suppressed.await?)
}

async fn give_up(context: &Context, delivery_id: Uuid, why: String) -> JobError {
    match fail(context, delivery_id, &why).await {
        Ok(()) => JobError::GiveUp(why),
        Err(error) => error,
    }
}

async fn note(
    context: &Context,
    delivery_id: Uuid,
    status: DeliveryStatus,
    counts: bool,
    why: &str,
) -> Result<(), JobError> {
    let note = DeliveryNote {
        delivery_id,
        status,
        counts,
        error: Some(why.to_owned()),
        reply: None,
    };
    Ok(context.mails.notes.submit(note).await?)
}
