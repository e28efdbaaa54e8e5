//! What others notice of thousands of connections that say nothing, say it slowly, or stop in the middle.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::Bench;
use crate::database::{Database, Kind};
use crate::load::Latencies;
use crate::neighbour;
use crate::service::Service;
use crate::webhooks::Webhooks;

/// Connections in each hundredth of a second while the clients come; at once, they would be closed at once, too.
const RAMP: usize = 20;
/// Client addresses, so that no two connections need the same port.
const ADDRESSES: usize = 100;

/// Slow clients, and what was seen beside them.
#[derive(Serialize)]
pub struct Silent {
    pub database: Kind,
    /// As many at every moment: one that is closed comes again.
    pub connections: usize,
    /// Fewest that were open at a look, and how often one was closed and came again.
    pub fewest: usize,
    pub reopened: usize,
    pub webhooks: Latencies,
    pub ready: Latencies,
    pub memory_mb: f64,
}

/// Opens the connections, keeps them up, and measures webhooks and `/readyz` meanwhile.
pub async fn measure(bench: &Bench, kind: Kind, connections: usize) -> anyhow::Result<Silent> {
    let files = usher::server::connections_within_open_files(connections + 1000);
    ensure!(
        files >= connections,
        "only {files} files may be open here; raise the limit (ulimit -n)"
    );
    let webhooks = Webhooks::sign(neighbour::count(bench.time))?;
    let database = Database::create(kind, &bench.home).await?;
    let service = Service::start(bench, "all", &database).await?;
    let clients = Rc::new(Clients {
        address: service.public()?,
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
                let clients = Rc::clone(&clients);
                tokio::task::spawn_local(async move { clients.one(number).await });
                if number % RAMP == 0 {
                    sleep(Duration::from_millis(10)).await;
                }
            }
            while clients.open.get() < connections * 99 / 100 {
                sleep(Duration::from_millis(10)).await;
            }
            let before = clients.opened.get();
            let mut fewest = usize::MAX;
            let (sent, ready) = tokio::join!(
                neighbour::send(service.public()?, &webhooks, bench.time),
                neighbour::look(service.private, bench.time, || fewest = fewest.min(clients.open.get()))
            );
            anyhow::Ok((sent?, ready?, fewest, clients.opened.get() - before))
        })
        .await;
    let (webhooks, ready, fewest, reopened) = seen?;
    let memory_mb = service.memory()?;
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

struct Clients {
    address: SocketAddr,
    /// A whole webhook, of which some send a part.
    whole: Vec<u8>,
    open: Cell<usize>,
    opened: Cell<usize>,
}

impl Clients {
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
