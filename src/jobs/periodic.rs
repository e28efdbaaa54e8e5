//! `periodic`: periodic work, each tick once with any number of processes. A schedule is a line in [`SCHEDULES`].

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Context, Job, JobError, retention};
use crate::app::App;
use crate::config::Config;
use crate::flows;
use crate::store::{Queue, StoreError, Tx};

/// Periodic work. Running it twice must change nothing the second time.
pub struct Schedule {
    /// Stored with its ticks: a literal, and never reused for other work.
    pub name: &'static str,
    /// The time between two ticks.
    pub every: TimeDelta,
    run: for<'a> fn(&'a Context) -> BoxFuture<'a, Result<(), JobError>>,
}

#[rustfmt::skip]
pub const SCHEDULES: &[Schedule] = &[
    Schedule { name: "expire-invites", every: TimeDelta::minutes(1), run: |context| expire_invites(&context.app).boxed() },
    Schedule { name: "remind-invitees", every: TimeDelta::minutes(1), run: |context| remind_invitees(&context.app).boxed() },
    Schedule { name: "forget-mail-counts", every: TimeDelta::days(1), run: |context| forget_mail_counts(&context.app).boxed() },
    Schedule { name: "retention", every: TimeDelta::minutes(15), run: |context| retention::purge(&context.app).boxed() },
];

/// One tick of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Periodic {
    pub schedule: String,
    /// When the next tick is due. If this one has not succeeded by then, it leaves the work to the next one.
    pub until: DateTime<Utc>,
}

impl Job for Periodic {
    const QUEUE: Queue = Queue::Periodic;
    const TIME_LIMIT: Duration = Duration::from_secs(300);

    async fn run(&self, context: &Context) -> Result<(), JobError> {
        let Some(schedule) = SCHEDULES.iter().find(|schedule| schedule.name == self.schedule) else {
            tracing::info!("the schedule {} no longer exists; nothing to do", self.schedule);
            return Ok(());
        };
        if self.is_overtaken(&context.app).await? {
            return Ok(());
        }
        let outcome = (schedule.run)(context).await;
        note_run(&context.app, schedule.name, &outcome).await;
        outcome
    }

    /// The next tick does the work.
    async fn gave_up(&self, _: &Context, _: &str) -> Result<(), JobError> {
        Ok(())
    }
}

impl Periodic {
    async fn is_overtaken(&self, app: &App) -> Result<bool, JobError> {
        let mut tx = app.store.read().await?;
        let schedules = tx.schedules().await?;
        Ok(schedules.get(&self.schedule).is_some_and(|row| row.due_at > self.until))
    }
}

/// For the board. If this fails, the run is done all the same.
async fn note_run(app: &App, name: &'static str, outcome: &Result<(), JobError>) {
    let error = outcome.as_ref().err().map(ToString::to_string);
    let noted = app
        .store
        .transaction(error, |tx, error| tx.note_schedule_run(name, error.as_deref()).boxed());
    if let Err(error) = noted.await {
        tracing::warn!(error = %error, "could not record the run of {name}");
    }
}

/// The maximum number of invites per transaction.
const BATCH: u32 = 500;

/// Marks invites as expired. They count as expired from `expires_at` on, even before this runs.
async fn expire_invites(app: &App) -> Result<(), JobError> {
    loop {
        let expired = app
            .store
            .transaction((), |tx, ()| tx.expire_invites(BATCH).boxed())
            .await;
        if expired? == 0 {
            return Ok(());
        }
    }
}

/// Sends reminders: plans those of invites without a plan, then queues the due ones.
async fn remind_invitees(app: &App) -> Result<(), JobError> {
    loop {
        let most = app
            .store
            .transaction(&app.config, |tx, config| remind_batch(tx, config).boxed());
        if most.await? < BATCH as usize {
            return Ok(());
        }
    }
}

async fn remind_batch(tx: &mut Tx, config: &Config) -> Result<usize, StoreError> {
    let reminders = &config.invite_reminders;
    let planned = flows::plan_reminders(tx, reminders, BATCH).await?;
    let due = flows::remind(tx, reminders, &config.roles, config.mail_caps, BATCH).await?;
    Ok(planned.max(due))
}

/// The daily caps use only today's counts; yesterday's are kept because clocks may differ.
async fn forget_mail_counts(app: &App) -> Result<(), JobError> {
    let yesterday = (app.clock.now() - TimeDelta::days(1)).date_naive();
    let forgotten = app
        .store
        .transaction((), |tx, ()| tx.forget_mail_counts(yesterday).boxed());
    Ok(forgotten.await?)
}
