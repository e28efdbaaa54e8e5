//! What others notice while an open transaction holds the row of one organization, and people sign up for it all the same.

use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::Bench;
use crate::database::{Connection, Database, Kind};
use crate::drain::{TIMEOUT, invite, wait_for_none};
use crate::load::{self, Latencies, Plan};
use crate::neighbour;
use crate::service::Service;
use crate::webhooks::Webhooks;

/// Sign-ups of people who are invited elsewhere.
const ELSEWHERE: usize = 2000;
/// Sign-ups for the organization that is locked.
const LOCKED: usize = 200;
/// Connections that tell of them.
const CONNECTIONS: usize = 32;
/// People of the steady webhooks have numbers from here on; nobody invited them.
const STRANGERS: usize = 1_000_000;

/// A lock, and what was seen beside it.
#[derive(Serialize)]
pub struct Locked {
    pub database: Kind,
    pub seconds: f64,
    /// Sign-ups a second, from the first that is sent to the last that has its effect: before the lock and during it.
    pub usual_per_second: f64,
    pub beside_per_second: f64,
    /// While the lock is held.
    pub webhooks: Latencies,
    pub ready: Latencies,
    /// From the end of the lock until those who were locked out are in.
    pub caught_up_seconds: f64,
}

/// Holds one organization for `time`, and measures sign-ups elsewhere, webhooks and `/readyz` meanwhile.
pub async fn measure(bench: &Bench, kind: Kind, time: Duration) -> anyhow::Result<Locked> {
    let database = Database::create(kind, &bench.home).await?;
    invite(&database, 0..2 * ELSEWHERE).await?;
    let organization = invite(&database, 2 * ELSEWHERE..2 * ELSEWHERE + LOCKED).await?;
    let service = Service::start(bench, "all", &database).await?;
    let connection = database.connect().await?;

    let usual_per_second = sign_up(&service, &connection, 0, 0).await?;

    let holder = connection.hold_organization(organization).await?;
    let until = Instant::now() + time;
    let locked_out = Rc::new(Webhooks::sign_from(2 * ELSEWHERE, LOCKED)?);
    load::run(service.public()?, locked_out, closed_loop()).await?;
    let beside_per_second = sign_up(&service, &connection, ELSEWHERE, LOCKED).await?;
    let rest = until.saturating_duration_since(Instant::now());
    let strangers = Webhooks::sign_from(STRANGERS, neighbour::count(rest))?;
    let public = service.public()?;
    let (webhooks, ready) = LocalSet::new()
        .run_until(async {
            tokio::join!(
                neighbour::send(public, &strangers, rest),
                neighbour::look(service.private, rest, || {})
            )
        })
        .await;
    holder.commit().await?;

    let released = Instant::now();
    wait_for_none(&connection, "usher_events where processed_at is null").await?;
    let caught_up_seconds = released.elapsed().as_secs_f64();
    let members = connection.count("organization_users where deleted_at is null").await?;
    ensure!(
        members == 2 * ELSEWHERE + LOCKED,
        "{members} members of {}",
        2 * ELSEWHERE + LOCKED
    );
    service.stop().await?;
    drop(connection);
    database.remove().await?;
    Ok(Locked {
        database: kind,
        seconds: time.as_secs_f64(),
        usual_per_second,
        beside_per_second,
        webhooks: webhooks?,
        ready: ready?,
        caught_up_seconds,
    })
}

/// Tells of those who were invited elsewhere; returns how many a second got in. `waiting` others can't.
async fn sign_up(service: &Service, connection: &Connection, first: usize, waiting: usize) -> anyhow::Result<f64> {
    let webhooks = Rc::new(Webhooks::sign_from(first, ELSEWHERE)?);
    let begun = Instant::now();
    load::run(service.public()?, webhooks, closed_loop()).await?;
    while connection.count("usher_events where processed_at is null").await? > waiting {
        ensure!(begun.elapsed() < TIMEOUT, "sign-ups elsewhere never took effect");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(ELSEWHERE as f64 / begun.elapsed().as_secs_f64())
}

fn closed_loop() -> Plan {
    Plan {
        connections: CONNECTIONS,
        warm_up: Duration::ZERO,
        time: TIMEOUT,
        rate: None,
        status: 202,
    }
}
