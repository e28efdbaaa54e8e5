//! Deletes old rows, each kind at its own age, in small batches with pauses between them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::JobError;
use crate::app::App;
use crate::store::{JobState, StoreError, Tx};

/// Rows per transaction: some milliseconds of work.
const BATCH: u32 = 500;
/// A pause between two transactions, so that others can use the database, and SQLite's one writer.
const PAUSE: Duration = Duration::from_millis(25);
/// How many jobs ended in each minute, for the board.
const MINUTES_KEPT: TimeDelta = TimeDelta::days(1);
/// Sessions, at least: while one is known as ended, its start is known as late.
const SESSIONS_KEPT: TimeDelta = TimeDelta::days(365);
/// Half the time limit of a job. The next tick deletes the rest.
const MAX_BATCH_SIZE: Duration = Duration::from_secs(150);

/// Deletes what is older than the configuration says.
pub(super) async fn purge(app: &App) -> Result<(), JobError> {
    match tokio::time::timeout(MAX_BATCH_SIZE, all(app)).await {
        Ok(done) => done.map_err(JobError::from),
        Err(_) => {
            tracing::info!("retention did not delete everything that is due; the rest follows at the next run");
            Ok(())
        }
    }
}

async fn all(app: &App) -> Result<(), StoreError> {
    let keep = &app.config.retention;
    let now = app.clock.now();
    let jobs = drop_jobs(app, JobState::Done, now - keep.jobs).await?;
    let dead = drop_jobs(app, JobState::Dead, now - keep.dead_jobs).await?;
    let payloads = repeat(app, now - keep.payloads, |tx, at, most| {
        tx.clear_payloads(at, most).boxed()
    })
    .await?;
    let events = repeat(app, now - keep.events, |tx, at, most| tx.drop_events(at, most).boxed()).await?;
    let deliveries = repeat(app, now - keep.deliveries, |tx, at, most| {
        tx.drop_deliveries(at, most).boxed()
    })
    .await?;
    let history = repeat(app, now - keep.deliveries, |tx, at, most| {
        tx.drop_history(at, most).boxed()
    })
    .await?;
    let sessions = repeat(app, now - keep.events.max(SESSIONS_KEPT), |tx, at, most| {
        tx.drop_sessions(at, most).boxed()
    })
    .await?;
    let outgoing = repeat(app, now - keep.outgoing, |tx, at, most| {
        tx.drop_outgoing(at, most).boxed()
    })
    .await?;
    let keys = repeat(app, now - keep.idempotency_keys, |tx, at, most| {
        tx.drop_idempotency_keys(at, most).boxed()
    })
    .await?;
    let audit = repeat(app, now - keep.audit, |tx, at, most| tx.drop_audit(at, most).boxed()).await?;
    repeat(app, now - MINUTES_KEPT, |tx, at, most| {
        tx.drop_ended_jobs(at, most).boxed()
    })
    .await?;
    // Then the jobs that they ran are gone.
    let workers = drop_workers(app, now - keep.jobs.max(keep.dead_jobs)).await?;
    if jobs + dead + payloads + events + deliveries + history + sessions + outgoing + keys + audit + workers > 0 {
        tracing::info!(
            jobs,
            dead_jobs = dead,
            payloads,
            events,
            deliveries,
            history,
            sessions,
            outgoing_events = outgoing,
            idempotency_keys = keys,
            audit,
            workers,
            "let go what was old"
        );
    }
    Ok(())
}

async fn drop_jobs(app: &App, state: JobState, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let mut dropped = 0;
    let mut after = String::new();
    loop {
        let batch = app
            .store
            .transaction(&after, |tx, after| tx.drop_jobs(state, before, after, BATCH).boxed())
            .await?;
        dropped += batch.rows;
        match batch.next {
            Some(next) => after = next,
            None => return Ok(dropped),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn drop_workers(app: &App, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let former = app.store.read().await?.former_workers(before).await?;
    for name in &former {
        app.store
            .transaction(name, |tx, name| tx.drop_worker(name).boxed())
            .await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(former.len() as u64)
}

/// Deletes a number of rows that are older than a time; returns how many.
type Step = for<'t> fn(&'t mut Tx, DateTime<Utc>, u32) -> BoxFuture<'t, Result<u64, StoreError>>;

async fn repeat(app: &App, before: DateTime<Utc>, step: Step) -> Result<u64, StoreError> {
    let mut rows = 0;
    loop {
        let count = app.store.transaction((), |tx, ()| step(tx, before, BATCH)).await?;
        rows += count;
        if count < u64::from(BATCH) {
            return Ok(rows);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
