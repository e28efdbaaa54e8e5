//! How fast stored events take effect: a backlog that a worker finds at its start, and single events on an idle service.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use chrono::TimeDelta;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use usher::clock::Clock;
use usher::invites::email::EmailAddress;
use usher::invites::{Acceptance, InviteDetails};
use usher::store::{NewInvite, Store};
use usher_testkit::receiver::Receiver;
use uuid::Uuid;

use crate::Bench;
use crate::board;
use crate::database::{Database, Kind};
use crate::events::telling;
use crate::load::{self, Connection, Latencies, Plan};
use crate::service::{POLL_INTERVAL, Service, buckets};
use crate::webhooks::{self, Webhooks};

/// Between two looks at the backlog.
const BACKLOG_INTERVAL: Duration = Duration::from_millis(50);
/// A backlog that takes longer is stuck.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// A backlog of users who were all invited into one organization, worked off by one worker.
#[derive(Serialize)]
pub struct Drain {
    pub database: Kind,
    pub events: usize,
    /// From the worker's readiness to the last event's effect.
    pub seconds: f64,
    pub per_second: f64,
    /// Until the last job was marked done, too.
    pub acknowledged_per_second: f64,
    pub worker_cpu_us: f64,
    pub memory_mb: f64,
}

/// Stores the backlog with no worker about, then starts one, which may tell a receiver of everything, and checks that
/// everybody got in.
pub async fn measure(
    bench: &Bench,
    kind: Kind,
    events: usize,
    told: Option<&Receiver>,
    onlookers: usize,
) -> anyhow::Result<Drain> {
    let database = Database::create(kind, &bench.home).await?;
    invite(&database, 0..events).await?;
    let receiver = Service::start(bench, "api", &database).await?;
    let plan = Plan {
        connections: 32,
        warm_up: Duration::ZERO,
        time: TIMEOUT,
        rate: None,
        status: 202,
    };
    load::run(receiver.public()?, Rc::new(Webhooks::sign(events)?), plan).await?;
    receiver.stop().await?;
    let connection = database.connect().await?;
    ensure!(connection.count("usher_events where processed_at is null").await? == events);

    let settings = told.map(|receiver| telling(receiver, None));
    let worker = Service::start_with(bench, "worker", &database, settings.as_ref().map_or(&[], |all| all)).await?;
    let _boards = board::onlookers(bench, worker.private, onlookers);
    let (ready, ready_at) = (Instant::now(), Clock::System.now());
    let cpu = worker.cpu()?;
    wait_for_none(&connection, "usher_events where processed_at is null").await?;
    wait_for_none(&connection, "usher_outgoing_events where number is null").await?;
    let open_jobs = format!("{} where status <> 'Done'", connection.jobs());
    wait_for_none(&connection, &open_jobs).await?;
    let acknowledged = ready.elapsed();
    let cpu = worker.cpu()? - cpu;
    let memory_mb = worker.memory()?;
    worker.stop().await?;

    let seconds = (connection.last_processed().await? - ready_at).as_seconds_f64();
    for (what, rows) in [
        ("memberships", "organization_users where deleted_at is null".to_owned()),
        ("accepted invites", "invites where status = 'accepted'".to_owned()),
        ("accepted events", "usher_events where outcome = 'accepted'".to_owned()),
        (
            "jobs done",
            format!(
                "{} where status = 'Done' and job_type = 'usher:process-clerk-event'",
                connection.jobs()
            ),
        ),
    ] {
        let count = connection.count(&rows).await?;
        ensure!(count == events, "{events} events, but {count} {what}");
    }
    if let Some(receiver) = told {
        let outgoing = connection.count("usher_outgoing_events").await?;
        ensure!(
            receiver.count() == outgoing,
            "{} of {outgoing} events were heard",
            receiver.count()
        );
    }
    drop(connection);
    database.remove().await?;
    Ok(Drain {
        database: kind,
        events,
        seconds,
        per_second: events as f64 / seconds,
        acknowledged_per_second: events as f64 / acknowledged.as_secs_f64(),
        worker_cpu_us: cpu.as_secs_f64() * 1e6 / events as f64,
        memory_mb,
    })
}

pub async fn wait_for_none(connection: &crate::database::Connection, rows: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    while connection.are_there(rows).await? {
        ensure!(
            since.elapsed() < TIMEOUT,
            "still {} {rows}",
            connection.count(rows).await?
        );
        sleep(BACKLOG_INTERVAL).await;
    }
    Ok(())
}

/// Invites the people with these numbers into one organization, without mails; returns its id.
pub async fn invite(database: &Database, people: Range<usize>) -> anyhow::Result<Uuid> {
    let store = Store::open(&database.url, Clock::System).await?;
    let mut tx = store.begin().await?;
    let organization = tx.new_id();
    tx.put_organization(&organization.into(), "Bench").await?;
    let invites = people.map(|number| {
        Ok(NewInvite {
            id: tx.new_id(),
            organization_id: organization,
            project_id: None,
            email: EmailAddress::parse(&webhooks::email(number))?,
            role: "member".to_owned(),
            acceptance: Acceptance::Default,
            invited_by: None,
            details: InviteDetails::default(),
            expires_at: tx.now() + TimeDelta::days(1),
        })
    });
    let invites = invites.collect::<anyhow::Result<Vec<_>>>()?;
    for some in invites.chunks(500) {
        tx.save_invites(some).await?;
    }
    tx.commit().await?;
    store.close().await;
    Ok(organization)
}

/// How soon a single event takes effect on a service with nothing else to do.
#[derive(Serialize)]
pub struct Effect {
    pub database: Kind,
    /// From its 202 until its effect can be seen.
    #[serde(flatten)]
    pub latencies: Latencies,
    /// From the making of its job until a worker has begun it, by the service's own metrics: milliseconds, and which part of
    /// the jobs took no longer.
    pub begun: Vec<(f64, f64)>,
}

/// Sends one event after another.
pub async fn effect(bench: &Bench, kind: Kind, events: usize) -> anyhow::Result<Effect> {
    let database = Database::create(kind, &bench.home).await?;
    let webhooks = Webhooks::sign(events)?;
    let service = Service::start(bench, "all", &database).await?;
    let connection = database.connect().await?;
    let mut http = Connection::open(service.public()?).await?;
    let mut request = webhooks.blank();
    let mut histogram = Histogram::new(3)?;
    let start = Instant::now();
    for number in 0..events {
        webhooks.fill(&mut request, number);
        ensure!(http.call(&request).await? == 202);
        let answered = Instant::now();
        while !connection.is_processed(&webhooks::svix_id(number)).await? {
            ensure!(answered.elapsed() < TIMEOUT, "an event was never processed");
            sleep(POLL_INTERVAL).await;
        }
        histogram.record(u64::try_from(answered.elapsed().as_micros())?)?;
        // Idle again: the job has to be marked done, too.
        sleep(Duration::from_millis(20)).await;
    }
    let time = start.elapsed();
    let of_events = "usher_job_wait_seconds_bucket{queue=\"process-clerk-event\",le=\"";
    let begun = buckets(&service.metrics().await?, of_events, 0.01);
    drop(connection);
    service.stop().await?;
    database.remove().await?;
    Ok(Effect {
        database: kind,
        latencies: Latencies::of(&histogram, time),
        begun,
    })
}
