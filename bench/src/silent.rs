//! What others notice of thousands of connections that say nothing, say it slowly, or stop in the middle.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::Bench;
use crate::database::{Database, Kind};
use crate::load::{Connection, Latencies};
use crate::service::Service;
use crate::webhooks::Webhooks;

/// Webhooks a second, each on a connection of its own.
const RATE: u32 = 100;
/// Between two questions to `/readyz`.
const LOOK: Duration = Duration::from_millis(50);
/// Connections in each hundredth of a second while the crowd gathers; at once, they would be closed at once, too.
const RAMP: usize = 20;
/// Client addresses, so that no two connections need the same port.
const ADDRESSES: usize = 100;

/// A crowd, and what was seen beside it.
#[derive(Serialize)]
pub struct Silent {
    pub database: Kind,
    /// As many at every moment; whoever is closed comes again.
    pub connections: usize,
    /// Fewest that were open at a look, and how often one was closed and came again.
    pub fewest: usize,
    pub reopened: usize,
    pub webhooks: Latencies,
    pub ready: Latencies,
    pub memory_mb: f64,
}

/// Opens the crowd, keeps it up, and measures webhooks and `/readyz` meanwhile.
pub async fn measure(bench: &Bench, kind: Kind, connections: usize) -> anyhow::Result<Silent> {
    let files = usher::server::connections_within_open_files(connections + 1000);
    ensure!(
        files >= connections,
        "only {files} files may be open here; raise the limit (ulimit -n)"
    );
    let count = (bench.time.as_secs_f64() * f64::from(RATE)).ceil() as usize;
    let webhooks = Webhooks::sign(count.max(1))?;
    let database = Database::create(kind, &bench.home).await?;
    let service = Service::start(bench, "all", &database).await?;
    let crowd = Rc::new(Crowd {
        address: service.public,
        whole: {
            let mut request = webhooks.blank();
            webhooks.fill(&mut request, 0);
            request
        },
        open: Cell::new(0),
        opened: Cell::new(0),
    });
    let seen = LocalSet::new()
        .run_until(async {
            for number in 0..connections {
                let crowd = Rc::clone(&crowd);
                tokio::task::spawn_local(async move { crowd.one(number).await });
                if number % RAMP == 0 {
                    sleep(Duration::from_millis(10)).await;
                }
            }
            while crowd.open.get() < connections * 99 / 100 {
                sleep(Duration::from_millis(10)).await;
            }
            let before = crowd.opened.get();
            let (sent, ready) = tokio::join!(
                send(service.public, &webhooks, bench.time),
                look(service.private, &crowd, bench.time)
            );
            let (ready, fewest) = ready?;
            anyhow::Ok((sent?, ready, fewest, crowd.opened.get() - before))
        })
        .await;
    let (webhooks, ready, fewest, reopened) = seen?;
    let memory_mb = service.memory_mb()?;
    service.stop().await?;
    database.remove().await?;
    Ok(Silent {
        database: kind,
        connections,
        fewest,
        reopened,
        webhooks,
        ready,
        memory_mb,
    })
}

struct Crowd {
    address: SocketAddr,
    /// A whole webhook, of which some send a part.
    whole: Vec<u8>,
    open: Cell<usize>,
    opened: Cell<usize>,
}

impl Crowd {
    /// One of them, again and again.
    async fn one(&self, number: usize) {
        loop {
            if let Ok(stream) = self.open(number).await {
                self.opened.set(self.opened.get() + 1);
                self.open.set(self.open.get() + 1);
                self.dawdle(stream, number).await;
                self.open.set(self.open.get() - 1);
            } else {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn open(&self, number: usize) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        let host = u8::try_from(2 + number % ADDRESSES).unwrap_or(2);
        socket.bind(SocketAddr::from(([127, 0, 0, host], 0)))?;
        socket.connect(self.address).await
    }

    /// Nothing, half a head, half a body, or a head byte by byte, until it is closed.
    async fn dawdle(&self, mut stream: TcpStream, number: usize) {
        let said = match number % 4 {
            0 => 0,
            1 => 100,
            2 => self.whole.len() / 2,
            _ => 1,
        };
        let mut at = said;
        let mut begun = stream.write_all(&self.whole[..said]).await;
        let mut answer = [0; 1024];
        while begun.is_ok() {
            match timeout(Duration::from_secs(1), stream.read(&mut answer)).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => {}
                Err(_) if number % 4 == 3 => {
                    begun = stream.write_all(&self.whole[at..=at]).await;
                    at += 1;
                }
                Err(_) => {}
            }
        }
    }
}

/// Sends webhooks at a steady rate, each on a new connection.
async fn send(address: SocketAddr, webhooks: &Webhooks, time: Duration) -> anyhow::Result<Latencies> {
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

/// Asks whether it is ready, and counts the crowd.
async fn look(address: SocketAddr, crowd: &Crowd, time: Duration) -> anyhow::Result<(Latencies, usize)> {
    const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: usher\r\n\r\n";
    let mut latencies = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let mut fewest = usize::MAX;
    let mut pace = interval(LOOK);
    let end = Instant::now() + time;
    while Instant::now() < end {
        pace.tick().await;
        fewest = fewest.min(crowd.open.get());
        let begun = Instant::now();
        let status = Connection::open(address).await?.call(REQUEST).await?;
        ensure!(status == 200, "/readyz was answered {status}");
        latencies.saturating_record(u64::try_from(begun.elapsed().as_micros())?);
    }
    Ok((Latencies::of(&latencies, time), fewest))
}
