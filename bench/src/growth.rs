//! What a full database costs: the same figures on one with a little and on one with a million of everything.

use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use chrono::TimeDelta;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;
use usher::clock::Clock;
use usher::invites::email::EmailAddress;
use usher::invites::{Acceptance, InviteDetails};
use usher::store::{NewInvite, Store};
use usher_testkit::process::API_KEY;
use uuid::Uuid;

use crate::Bench;
use crate::database::{Database, Kind};
use crate::drain::wait_for_none;
use crate::load::{self, Connection, Latencies, Plan};
use crate::service::Service;
use crate::webhooks::{self, Webhooks};

/// Rows of what there was before.
#[derive(Clone, Copy, Serialize)]
pub struct Size {
    pub organizations: u32,
    pub invites: u32,
    pub finished_jobs: u32,
    pub pending_jobs: u32,
    pub events: u32,
}

impl Size {
    /// Enough for a page of a list.
    pub const SMALL: Self = Self {
        organizations: 10,
        invites: 1_000,
        finished_jobs: 0,
        pending_jobs: 0,
        events: 0,
    };
    /// Some years.
    pub const LARGE: Self = Self {
        organizations: 1_000,
        invites: 1_000_000,
        finished_jobs: 1_000_000,
        pending_jobs: 100_000,
        events: 0,
    };
}

/// The steps of one service on one database.
#[derive(Serialize)]
pub struct Growth {
    pub database: Kind,
    pub before: Size,
    pub intake: Latencies,
    pub drain_per_second: f64,
    /// The invites that one person sees on signing in.
    pub banner: Latencies,
    /// A page of an organization's pending invites.
    pub list: Latencies,
    /// A look at the metrics.
    pub metrics: Latencies,
}

/// Who has invites that wait for them on their banner.
const GUEST: usize = 0;

/// Takes in, works off and asks.
pub async fn measure(bench: &Bench, kind: Kind, before: Size, events: usize) -> anyhow::Result<Growth> {
    let database = Database::create(kind, &bench.home).await?;
    database.connect().await?.fill(before).await?;
    invite(&database, events).await?;

    let receiver = Service::start(bench, "api", &database).await?;
    let plan = Plan {
        connections: 32,
        warm_up: Duration::ZERO,
        time: Duration::from_secs(300),
        rate: None,
        status: 202,
    };
    let intake = load::run(receiver.public()?, Rc::new(Webhooks::sign(events)?), plan).await?;
    receiver.stop().await?;

    let connection = database.connect().await?;
    let service = Service::start(bench, "all", &database).await?;
    let started = Instant::now();
    wait_for_none(&connection, "usher_events where processed_at is null").await?;
    let drain_per_second = events as f64 / started.elapsed().as_secs_f64();
    ensure!(connection.count("organization_users where deleted_at is null").await? == events - 1);

    let guest = webhooks::user_id(GUEST);
    let organization = Uuid::from_u128(1);
    let growth = Growth {
        database: kind,
        before,
        intake: intake.latencies,
        drain_per_second,
        banner: ask(
            bench,
            service.public()?,
            &format!("/v1/users/{guest}/invites"),
            "\"flagged\":true",
        )
        .await?,
        list: ask(
            bench,
            service.public()?,
            &format!("/v1/invites?organization_id={organization}&status=pending&limit=50"),
            "\"next_cursor\":\"",
        )
        .await?,
        metrics: ask(bench, service.private, "/metrics", "usher_").await?,
    };
    service.stop().await?;
    drop(connection);
    database.remove().await?;
    Ok(growth)
}

/// Asks again and again over one connection; each answer has to hold `part`.
async fn ask(bench: &Bench, address: std::net::SocketAddr, path: &str, part: &str) -> anyhow::Result<Latencies> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: usher\r\nAuthorization: Bearer {API_KEY}\r\n\r\n");
    let mut http = Connection::open(address).await?;
    let mut histogram = Histogram::new(3)?;
    let start = Instant::now();
    while start.elapsed() < bench.time / 2 {
        let begin = Instant::now();
        ensure!(
            http.call(request.as_bytes()).await? == 200,
            "{path}: {}",
            http.last_answer()
        );
        histogram.record(u64::try_from(begin.elapsed().as_micros())?)?;
        ensure!(http.last_answer().contains(part), "{path}: {}", http.last_answer());
    }
    Ok(Latencies::of(&histogram, start.elapsed()))
}

/// Everybody into one organization, and one of them asked by three.
async fn invite(database: &Database, count: usize) -> anyhow::Result<()> {
    let store = Store::open(&database.url, Clock::System).await?;
    let mut tx = store.begin().await?;
    let newest = |organization: u128, number, acceptance| {
        Ok(NewInvite {
            id: tx.new_id(),
            organization_id: Uuid::from_u128(organization),
            project_id: None,
            email: EmailAddress::parse(&webhooks::email(number))?,
            role: "member".to_owned(),
            acceptance,
            invited_by: None,
            details: InviteDetails::default(),
            expires_at: tx.now() + TimeDelta::days(1),
        })
    };
    let asked = (1..=3).map(|organization| newest(organization, GUEST, Acceptance::Ask));
    let others = (GUEST + 1..count).map(|number| newest(4, number, Acceptance::Auto));
    let invites = asked.chain(others).collect::<anyhow::Result<Vec<_>>>()?;
    for some in invites.chunks(500) {
        tx.save_invites(some).await?;
    }
    tx.commit().await?;
    store.close().await;
    Ok(())
}
