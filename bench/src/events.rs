//! What telling the app costs: deliveries to one receiver, what they take from the drain, and how soon a single event is
//! numbered and heard.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use usher_testkit::process::API_KEY;
use usher_testkit::receiver::Receiver;
use uuid::Uuid;

use crate::Bench;
use crate::database::{Connection, Database, Kind};
use crate::drain::{self, Drain, TIMEOUT, invite, wait_for_none};
use crate::load::{self, Latencies};
use crate::service::{Service, buckets};
use crate::webhooks;

/// The app is told of these alone where each event is waited for.
const CREATED: &str = "invite.created";
/// A secret that the events are signed with.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Between two events on an idle service.
const PAUSE: Duration = Duration::from_millis(20);

/// The settings of a service that tells one receiver of these types of events, or of all.
pub fn telling(receiver: &Receiver, types: Option<&str>) -> [(&'static str, String); 2] {
    let types = types.map(|types| format!(":{types}")).unwrap_or_default();
    [
        ("USHER_EVENTS", format!("app{types}={}", receiver.url)),
        ("USHER_EVENTS_SECRET", SECRET.to_owned()),
    ]
}

/// Starts a receiver beside the mail server.
async fn receiver(bench: &Bench) -> anyhow::Result<Receiver> {
    Ok(bench.servers.spawn(Receiver::start()).await?)
}

/// A backlog of events that no endpoint has heard of, numbered and sent by one worker.
#[derive(Serialize)]
pub struct Deliveries {
    pub database: Kind,
    pub deliveries: usize,
    /// From the worker's readiness to the last delivery.
    pub seconds: f64,
    pub per_second: f64,
    pub worker_cpu_us: f64,
    pub memory_mb: f64,
}

/// Records the events with no worker about, then starts one, and checks that each is heard once.
pub async fn deliveries(bench: &Bench, kind: Kind, events: usize) -> anyhow::Result<Deliveries> {
    let database = Database::create(kind, &bench.home).await?;
    invite(&database, 0..events).await?;
    let receiver = receiver(bench).await?;
    let worker = Service::start_with(bench, "worker", &database, &telling(&receiver, None)).await?;
    let (ready, cpu) = (Instant::now(), worker.cpu()?);
    let all = timeout(TIMEOUT, receiver.heard_at_least(events)).await;
    all.with_context(|| format!("only {} of {events} events were heard", receiver.count()))?;
    let connection = database.connect().await?;
    let open = format!("{} where status <> 'Done'", connection.jobs());
    wait_for_none(&connection, &open).await?;
    let worker_cpu_us = (worker.cpu()? - cpu).as_secs_f64() * 1e6 / events as f64;
    let memory_mb = worker.memory()?;
    worker.stop().await?;

    let heard = receiver.take_heard();
    let ids: HashSet<_> = heard.iter().map(|heard| heard.header("webhook-id")).collect();
    ensure!(
        heard.len() == events && ids.len() == events,
        "some events were heard twice"
    );
    ensure!(
        connection
            .count("usher_event_deliveries where status = 'delivered'")
            .await?
            == events
    );
    let last = heard.iter().map(|heard| heard.at).max().unwrap_or(ready);
    drop(connection);
    database.remove().await?;
    let seconds = (last - ready).as_secs_f64();
    Ok(Deliveries {
        database: kind,
        deliveries: events,
        seconds,
        per_second: events as f64 / seconds,
        worker_cpu_us,
        memory_mb,
    })
}

/// The best of several drains without an endpoint and of as many with one, by turns.
#[derive(Serialize)]
pub struct Told {
    pub database: Kind,
    pub without: Drain,
    pub with: Drain,
    /// How much of the speed without it is left, until the last effect.
    pub ratio: f64,
}

/// Measures the drain with and without an endpoint that hears of everything.
pub async fn told(bench: &Bench, kind: Kind, events: usize, rounds: usize) -> anyhow::Result<Told> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        without.push(drain::measure(bench, kind, events, None, 0).await?);
        let receiver = receiver(bench).await?;
        with.push(drain::measure(bench, kind, events, Some(&receiver), 0).await?);
    }
    let (without, with) = (best(without)?, best(with)?);
    Ok(Told {
        database: kind,
        ratio: with.per_second / without.per_second,
        without,
        with,
    })
}

fn best(drains: Vec<Drain>) -> anyhow::Result<Drain> {
    let by_speed = |one: &Drain, other: &Drain| one.per_second.total_cmp(&other.per_second);
    drains.into_iter().max_by(by_speed).context("no drain")
}

/// How soon a single event is heard on a service with nothing else to do.
#[derive(Serialize)]
pub struct Lag {
    pub database: Kind,
    /// How long a transaction of the app's that has recorded an event is open meanwhile.
    pub open_seconds: Option<f64>,
    /// From the answer of the request until the receiver has the event.
    #[serde(flatten)]
    pub heard: Latencies,
    /// From the event to its number, by the service's own metrics: milliseconds, and which part of the events took no
    /// longer.
    pub numbered: Vec<(f64, f64)>,
}

/// Invites one person after another.
pub async fn lag(bench: &Bench, kind: Kind, events: usize) -> anyhow::Result<Lag> {
    let stage = Stage::start(bench, kind).await?;
    let (heard, numbered) = stage.invite(events, PAUSE).await?;
    stage.end().await?;
    Ok(Lag {
        database: kind,
        open_seconds: None,
        heard,
        numbered,
    })
}

/// The same while a transaction of the app's with an invite is open: the event of that invite alone is late.
pub async fn lag_beside_open(bench: &Bench, events: usize, time: Duration) -> anyhow::Result<Lag> {
    let stage = Stage::start(bench, Kind::Postgres).await?;
    let open = stage.connection.invite_and_hold(stage.organization).await?;
    let events_count = u32::try_from(events)?;
    let (heard, numbered) = stage.invite(events, time / events_count).await?;
    open.commit().await?;
    timeout(TIMEOUT, stage.receiver.heard_at_least(events + 1)).await?;
    let gaps =
        "(select number - row_number() over (order by number) as gap from usher_outgoing_events) as n where gap <> 0";
    ensure!(!stage.connection.are_there(gaps).await?, "the feed has gaps");
    stage.end().await?;
    Ok(Lag {
        database: Kind::Postgres,
        open_seconds: Some(time.as_secs_f64()),
        heard,
        numbered,
    })
}

/// A service with one endpoint and an organization.
struct Stage {
    database: Database,
    connection: Connection,
    service: Service,
    receiver: Receiver,
    organization: Uuid,
}

impl Stage {
    async fn start(bench: &Bench, kind: Kind) -> anyhow::Result<Self> {
        let database = Database::create(kind, &bench.home).await?;
        let organization = invite(&database, 0..0).await?;
        let receiver = receiver(bench).await?;
        Ok(Self {
            connection: database.connect().await?,
            service: Service::start_with(bench, "all", &database, &telling(&receiver, Some(CREATED))).await?,
            database,
            receiver,
            organization,
        })
    }

    async fn invite(&self, count: usize, pause: Duration) -> anyhow::Result<(Latencies, Vec<(f64, f64)>)> {
        let mut http = load::Connection::open(self.service.public()?).await?;
        let mut histogram = Histogram::new(3)?;
        let start = Instant::now();
        for number in 0..count {
            let due = start + pause * u32::try_from(number)?;
            tokio::time::sleep_until(due).await;
            let status = http.call(&self.request(number)).await?;
            ensure!(status == 201, "an invite was answered {}", http.last_answer());
            let answered = Instant::now();
            let heard = timeout(TIMEOUT, self.receiver.heard_at_least(number + 1)).await;
            heard.context("an event was never heard")?;
            histogram.record(u64::try_from(answered.elapsed().as_micros())?)?;
            // Idle again: its mail has to be sent, too.
            sleep(PAUSE).await;
        }
        let time = start.elapsed();
        let metrics = self.service.metrics().await?;
        let numbered = buckets(&metrics, "usher_event_numbering_lag_seconds_bucket{le=\"", 0.1);
        Ok((Latencies::of(&histogram, time), numbered))
    }

    fn request(&self, number: usize) -> Vec<u8> {
        let body = json!({
            "organization_id": self.organization, "email": webhooks::email(number), "role": "member",
        });
        let body = body.to_string();
        format!(
            "POST /v1/invites HTTP/1.1\r\nHost: usher\r\nAuthorization: Bearer {API_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into()
    }

    async fn end(self) -> anyhow::Result<()> {
        drop(self.connection);
        self.service.stop().await?;
        self.database.remove().await
    }
}
