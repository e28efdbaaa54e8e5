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

use crate::Bench;
use crate::database::{Database, Kind};
use crate::load::{self, Latencies, Plan};
use crate::webhooks::{PATH, Webhooks, sample_body};

/// One connection that inserts one row after the other, each in a durable transaction of its own.
pub async fn durable_inserts(bench: &Bench, kind: Kind) -> anyhow::Result<Latencies> {
    let database = Database::create(kind, &bench.home).await?;
    let payload = sample_body()?;
    let mut connection = database.connect().await?;
    connection.create_yardstick().await?;
    let mut histogram = Histogram::new(3)?;
    let start = Instant::now();
    for number in 0.. {
        let begin = Instant::now();
        if begin - start >= bench.time {
            break;
        }
        connection.insert_yardstick(number, &payload).await?;
        histogram.record(u64::try_from(begin.elapsed().as_micros())?)?;
    }
    let time = start.elapsed();
    drop(connection);
    database.remove().await?;
    Ok(Latencies::of(&histogram, time))
}

/// A server that reads each body and answers 200, made of what usher's server is made of, under the same load.
pub async fn responder(bench: &Bench, connections: usize) -> anyhow::Result<Latencies> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
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
    let webhooks = Rc::new(Webhooks::sign(2 * bench.webhooks(connections, None))?);
    let seen = load::run(address, webhooks, plan).await?;
    server.shutdown_background();
    Ok(seen.latencies)
}
