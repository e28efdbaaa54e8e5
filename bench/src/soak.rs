//! Steady load for minutes: memory must not creep.

use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use crate::Bench;
use crate::database::{Database, Kind};
use crate::drain::wait_for_none;
use crate::load::{self, Latencies, Plan};
use crate::service::Service;
use crate::webhooks::Webhooks;

/// Between two looks at the memory. The signatures of a part are younger than Svix's five minutes.
const PART: Duration = Duration::from_secs(30);

/// One service that takes in and works off at a steady rate.
#[derive(Serialize)]
pub struct Soak {
    pub database: Kind,
    pub rate: u32,
    pub events: usize,
    /// Of the last part.
    pub latencies: Latencies,
    /// Resident memory after each part.
    pub memory_mb: Vec<f64>,
}

/// Loads it for `minutes` and checks that every event was processed.
pub async fn measure(bench: &Bench, kind: Kind, rate: u32, minutes: f64) -> anyhow::Result<Soak> {
    let database = Database::create(kind, &bench.home).await?;
    let service = Service::start(bench, "all", &database).await?;
    let parts = (minutes * 60.0 / PART.as_secs_f64()).ceil() as usize;
    let in_a_part = rate as usize * PART.as_secs() as usize;
    let mut memory_mb = Vec::with_capacity(parts);
    let mut latencies = None;
    for part in 0..parts.max(1) {
        let plan = Plan {
            connections: 32,
            warm_up: Duration::ZERO,
            time: PART,
            rate: Some(rate),
            status: 202,
        };
        let webhooks = Webhooks::sign_from(part * in_a_part, in_a_part)?;
        latencies = Some(load::run(service.public()?, Rc::new(webhooks), plan).await?.latencies);
        memory_mb.push(service.memory()?);
    }
    let connection = database.connect().await?;
    wait_for_none(&connection, "usher_events where processed_at is null").await?;
    let events = connection.count("usher_events").await?;
    ensure!(
        connection.count("usher_people").await? == events,
        "an event had no effect"
    );
    service.stop().await?;
    drop(connection);
    database.remove().await?;
    let latencies = latencies.unwrap_or_else(|| unreachable!("there is at least one part"));
    Ok(Soak {
        database: kind,
        rate,
        events,
        latencies,
        memory_mb,
    })
}
