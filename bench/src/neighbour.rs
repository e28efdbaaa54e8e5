//! Those who must not notice what goes on beside them: webhooks at a steady rate, and a probe of `/readyz`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use tokio::time::{Instant, interval};

use crate::load::{Connection, Latencies};
use crate::webhooks::Webhooks;

/// Webhooks a second, each on a connection of its own.
const RATE: u32 = 100;
/// Between two questions to `/readyz`.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// How many webhooks are needed for so long.
pub fn count(time: Duration) -> usize {
    ((time.as_secs_f64() * f64::from(RATE)).ceil() as usize).max(1)
}

/// Sends all webhooks at a steady rate, each on a new connection.
pub async fn send(address: SocketAddr, webhooks: &Webhooks, time: Duration) -> anyhow::Result<Latencies> {
    let mut latencies = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let mut request = webhooks.blank();
    let mut pace = interval(Duration::from_secs(1) / RATE);
    for number in 0..webhooks.len() {
        pace.tick().await;
        webhooks.fill(&mut request, number);
        let begun = Instant::now();
        let mut connection = Connection::open(address).await.context("a webhook's connection")?;
        let status = connection.call(&request).await?;
        ensure!(status == 202, "a webhook was answered {status}");
        latencies.saturating_record(u64::try_from(begun.elapsed().as_micros())?);
    }
    Ok(Latencies::of(&latencies, time))
}

/// Asks `/readyz` again and again, each time on a new connection, and calls `before_each`.
pub async fn look(address: SocketAddr, time: Duration, mut before_each: impl FnMut()) -> anyhow::Result<Latencies> {
    const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: usher\r\n\r\n";
    let mut latencies = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let mut pace = interval(PROBE_INTERVAL);
    let end = Instant::now() + time;
    while Instant::now() < end {
        pace.tick().await;
        before_each();
        let begun = Instant::now();
        let status = Connection::open(address).await?.call(REQUEST).await?;
        ensure!(status == 200, "/readyz was answered {status}");
        latencies.saturating_record(u64::try_from(begun.elapsed().as_micros())?);
    }
    Ok(Latencies::of(&latencies, time))
}
