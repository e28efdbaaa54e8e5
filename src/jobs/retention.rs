//! What is old is let go, each kind at its own age, in small batches with pauses between them.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::JobError;
use crate::app::App;
use crate::store::{JobState, StoreError, Tx};

/// Rows of one transaction: some milliseconds of work.
const BATCH: u32 = 500;
/// Between two transactions, so that others get the database, and SQLite's one writer, in between.
const PAUSE: Duration = Duration::from_millis(25);
/// Half the time limit of a job. What is left then is let go at the next tick.
const MOST: Duration = Duration::from_secs(150);

/// Lets go what is older than the configuration says.
pub(super) async fn let_go(app: &App) -> Result<(), JobError> {
    match tokio::time::timeout(MOST, all(app)).await {
        Ok(done) => done.map_err(JobError::retry),
        Err(_) => {
            tracing::info!("not everything that is old could be let go; the rest follows at the next tick");
            Ok(())
        }
    }
}

async fn all(app: &App) -> Result<(), StoreError> {
    let keep = &app.config.retention;
    let now = app.clock.now();
    let jobs = drop_jobs(app, JobState::Done, now - keep.jobs).await?;
    let dead = drop_jobs(app, JobState::Dead, now - keep.dead_jobs).await?;
    let payloads = repeat(app, now - keep.payloads, Tx::clear_payloads).await?;
    let events = repeat(app, now - keep.events, Tx::drop_events).await?;
    let deliveries = repeat(app, now - keep.deliveries, Tx::drop_deliveries).await?;
    let keys = repeat(app, now - keep.idempotency_keys, Tx::drop_idempotency_keys).await?;
    if jobs + dead + payloads + events + deliveries + keys > 0 {
        tracing::info!(
            jobs,
            dead_jobs = dead,
            payloads,
            events,
            deliveries,
            idempotency_keys = keys,
            "let go what was old"
        );
    }
    Ok(())
}

async fn drop_jobs(app: &App, state: JobState, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let mut dropped = 0;
    let mut after = String::new();
    loop {
        let mut tx = app.store.begin().await?;
        let batch = tx.drop_jobs(state, before, &after, BATCH).await?;
        tx.commit().await?;
        dropped += batch.rows;
        match batch.next {
            Some(next) => after = next,
            None => return Ok(dropped),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn repeat(
    app: &App,
    before: DateTime<Utc>,
    step: impl AsyncFn(&mut Tx, DateTime<Utc>, u32) -> Result<u64, StoreError>,
) -> Result<u64, StoreError> {
    let mut rows = 0;
    loop {
        let mut tx = app.store.begin().await?;
        let count = step(&mut tx, before, BATCH).await?;
        tx.commit().await?;
        rows += count;
        if count < u64::from(BATCH) {
            return Ok(rows);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
