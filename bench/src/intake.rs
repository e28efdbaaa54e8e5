//! What `POST /webhooks/clerk` takes in, each event durably stored before its 202.

use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;
use usher_testkit::process::cpu_of;

use crate::Bench;
use crate::board;
use crate::database::{Database, Kind};
use crate::load::{self, Latencies, Plan};
use crate::service::Service;
use crate::webhooks::Webhooks;

/// More than this machine's cores can send or take; a run that has sent all of its webhooks ends early and counts.
const MOST_PER_SECOND: u32 = 30_000;
/// One connection waits for the disk each time.
const MOST_PER_SECOND_AND_CONNECTION: u32 = 10_000;

/// One run against a service and a database of its own.
#[derive(Serialize)]
pub struct Intake {
    pub database: Kind,
    pub role: &'static str,
    pub connections: usize,
    /// Requests a second of an open loop; none for a closed one.
    pub rate: Option<u32>,
    #[serde(flatten)]
    pub latencies: Latencies,
    /// Answers, and rows found afterwards: they are the same.
    pub stored: usize,
    /// Processor time per webhook, of the service and of the load.
    pub service_cpu_us: f64,
    pub load_cpu_us: f64,
    /// Resident memory of the service before and after.
    pub memory_idle_mb: f64,
    pub memory_mb: f64,
}

/// Runs the load, beside open boards, and checks that every answer was a 202 and every 202 is a row.
pub async fn measure(
    bench: &Bench,
    kind: Kind,
    role: &'static str,
    connections: usize,
    rate: Option<u32>,
    onlookers: usize,
) -> anyhow::Result<Intake> {
    let database = Database::create(kind, &bench.home).await?;
    let webhooks = Rc::new(Webhooks::sign(bench.webhooks(connections, rate))?);
    let service = Service::start(bench, role, &database).await?;
    let memory_idle_mb = service.memory()?;

    let (service_cpu, load_cpu) = (service.cpu()?, cpu_of("self")?);
    let plan = Plan {
        connections,
        warm_up: bench.warm_up,
        time: bench.time,
        rate,
        status: 202,
    };
    let _boards = board::onlookers(bench, service.private, onlookers);
    let seen = load::run(service.public()?, webhooks, plan).await?;
    let per_answer = |cpu: Duration| cpu.as_secs_f64() * 1e6 / seen.answers as f64;
    let service_cpu_us = per_answer(service.cpu()? - service_cpu);
    let load_cpu_us = per_answer(cpu_of("self")? - load_cpu);

    let memory_mb = service.memory()?;
    service.stop().await?;
    let stored = database.connect().await?.count("usher_events").await?;
    ensure!(stored == seen.answers, "{} answers, but {stored} rows", seen.answers);
    database.remove().await?;
    Ok(Intake {
        database: kind,
        role,
        connections,
        rate,
        latencies: seen.latencies,
        stored,
        service_cpu_us,
        load_cpu_us,
        memory_idle_mb,
        memory_mb,
    })
}

impl Bench {
    /// How many webhooks a run may need.
    pub fn webhooks(&self, connections: usize, rate: Option<u32>) -> usize {
        let connections = u32::try_from(connections).unwrap_or(u32::MAX);
        let most = MOST_PER_SECOND_AND_CONNECTION
            .saturating_mul(connections)
            .min(MOST_PER_SECOND);
        let time = self.warm_up + self.time;
        (f64::from(rate.unwrap_or(most)) * time.as_secs_f64()).ceil() as usize
    }
}

/// From the start of the process to its first 202, with the schema in place: the median of some starts.
pub async fn first_answer(bench: &Bench, kind: Kind) -> anyhow::Result<Duration> {
    const STARTS: usize = 7;
    let database = Database::create(kind, &bench.home).await?;
    let webhooks = Webhooks::sign(STARTS)?;
    let mut times = Vec::with_capacity(STARTS);
    for number in 0..STARTS {
        let service = Service::spawn(bench, "all", &database).await?;
        times.push(service.first_answer(&webhooks, number).await?);
        service.stop().await?;
    }
    database.remove().await?;
    times.sort();
    Ok(times[STARTS / 2])
}
