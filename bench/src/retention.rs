//! What it costs to look at a queue with a long past, and to let that past go while others work.

use std::time::Duration;

use chrono::TimeDelta;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;
use usher::clock::Clock;
use usher::store::{JobState, Store};

use crate::Bench;
use crate::database::{Database, Kind};
use crate::growth::Size;
use crate::load::Latencies;

/// Rows of one transaction, as the service takes them.
const BATCH: u32 = 500;
/// Transactions that are measured.
const BATCHES: usize = 100;

/// Finished jobs and processed events that are older than anybody keeps them.
#[derive(Serialize)]
pub struct Retention {
    pub database: Kind,
    pub rows: u32,
    /// The queue's gauges, as a scrape asks for them.
    pub gauges_ms: f64,
    /// Transactions of so many jobs and so many payloads.
    pub batches: Latencies,
}

/// Fills a database and lets go a part of it.
pub async fn measure(bench: &Bench, kind: Kind, rows: u32) -> anyhow::Result<Retention> {
    let database = Database::create(kind, &bench.home).await?;
    let past = Size {
        finished_jobs: rows,
        events: rows,
        ..Size::SMALL
    };
    database.connect().await?.fill(past).await?;
    let store = Store::open(&database.url, Clock::System).await?;
    let asked = Instant::now();
    store.queue_depths().await?;
    let gauges_ms = asked.elapsed().as_secs_f64() * 1000.0;

    let before = Clock::System.now() + TimeDelta::days(1);
    let mut histogram = Histogram::new(3)?;
    let mut time = Duration::ZERO;
    let mut after = String::new();
    for _ in 0..BATCHES {
        let begun = Instant::now();
        let mut tx = store.begin().await?;
        let batch = tx.drop_jobs(JobState::Done, before, &after, BATCH).await?;
        tx.clear_payloads(before, BATCH).await?;
        tx.commit().await?;
        time += begun.elapsed();
        histogram.record(u64::try_from(begun.elapsed().as_micros())?)?;
        match batch.next {
            Some(next) => after = next,
            None => break,
        }
    }
    store.close().await;
    database.remove().await?;
    Ok(Retention {
        database: kind,
        rows,
        gauges_ms,
        batches: Latencies::of(&histogram, time),
    })
}
