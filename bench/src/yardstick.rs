//! What this machine can do at this hour: other figures mean something in proportion to these.

use std::rc::Rc;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use hdrhistogram::Histogram;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use usher::clock::Clock;
use usher::store::{NewEvent, Store};

use crate::Bench;
use crate::database::{Database, Kind};
use crate::load::{self, Latencies, Plan};
use crate::webhooks::{PATH, Webhooks, sample_body, svix_id};

/// One connection that inserts one row after the other, each in a durable transaction of its own.
pub async fn durable_inserts(bench: &Bench, kind: Kind) -> anyhow::Result<Latencies> {
    let database = Database::create(kind, &bench.home).await?;
    let payload = sample_body()?;
    let connection = database.connect().await?;
    connection.create_yardstick().await?;
    let latencies = one_by_one(bench, async |number| {
        connection.insert_yardstick(number, &payload).await
    })
    .await?;
    drop(connection);
    database.remove().await?;
    Ok(latencies)
}

/// What an event leaves in the database, its job and all, one by one, without a request around it.
pub async fn events(bench: &Bench, kind: Kind) -> anyhow::Result<Latencies> {
    let database = Database::create(kind, &bench.home).await?;
    let payload = sample_body()?;
    let store = Store::open(&database.url, Clock::System).await?;
    let latencies = one_by_one(bench, async |number| {
        let event = NewEvent {
            svix_id: svix_id(number),
            event_type: "user.created".to_owned(),
            payload: payload.clone(),
        };
        store.receive_events(&[event]).await?;
        Ok(())
    })
    .await?;
    store.close().await;
    database.remove().await?;
    Ok(latencies)
}

async fn one_by_one(bench: &Bench, mut act: impl AsyncFnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<Latencies> {
    let mut histogram = Histogram::new(3)?;
    let start = Instant::now();
    for number in 0.. {
        let begin = Instant::now();
        if begin - start >= bench.time {
            break;
        }
        act(number).await?;
        histogram.record(u64::try_from(begin.elapsed().as_micros())?)?;
    }
    Ok(Latencies::of(&histogram, start.elapsed()))
}

/// A server that reads each body and answers 200, made of what usher's server is made of, under the same load.
pub async fn responder(bench: &Bench, connections: usize) -> anyhow::Result<Latencies> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let webhooks = Rc::new(Webhooks::sign(2 * bench.webhooks(connections, None))?);
    let server = Runtime::new()?;
    server.spawn(async move {
        let listener = TcpListener::from_std(listener)?.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, Router::new().route(PATH, post(async |_: Bytes| {}))).await
    });
    let plan = Plan {
        connections,
        warm_up: bench.warm_up,
        time: bench.time,
        rate: None,
        status: 200,
    };
    let seen = load::run(address, webhooks, plan).await;
    server.shutdown_background();
    Ok(seen?.latencies)
}
