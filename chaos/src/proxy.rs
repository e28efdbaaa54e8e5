//! The network between usher and Postgres, to be cut, frozen and slowed down.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// It carries everything.
    Fine,
    /// Connections break, and new ones are not had.
    Cut,
    /// Nothing arrives; once it is fine again, everything does.
    Frozen,
    /// Nothing arrives, and what was connected in such a time never hears anything again, not even that it is over: what
    /// a failed-over address or a forgetful firewall does.
    Lost,
    /// Everything arrives this much later.
    Slow(Duration),
}

/// A TCP proxy. It stops when it is dropped.
pub struct Proxy {
    /// Where usher connects to.
    pub address: SocketAddr,
    network: watch::Sender<Network>,
    upstream: watch::Sender<SocketAddr>,
}

impl Proxy {
    /// Listens in front of `upstream`.
    pub async fn start(upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let network = watch::Sender::new(Network::Fine);
        let seen = network.subscribe();
        let (upstream, leads_to) = watch::channel(upstream);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if seen.has_changed().is_err() {
                    return;
                }
                let upstream = *leads_to.borrow();
                tokio::spawn(carry(stream, upstream, seen.clone()));
            }
        });
        Ok(Self {
            address,
            network,
            upstream,
        })
    }

    /// From now on new connections lead there.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.upstream.send_replace(upstream);
    }

    /// From now on the network is like this.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn carry(client: TcpStream, upstream: SocketAddr, mut network: watch::Receiver<Network>) -> Option<()> {
    passable(&mut network).await?;
    let server = TcpStream::connect(upstream).await.ok()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true).ok()?;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // With either direction ends the other.
    tokio::select! {
        ended = pump(from_client, to_server, network.clone()) => ended,
        ended = pump(from_server, to_client, network) => ended,
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut network: watch::Receiver<Network>) -> Option<()> {
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut chunk) => read.ok().filter(|&read| read > 0)?,
            changed = network.changed() => {
                changed.ok()?;
                passable(&mut network).await?;
                continue;
            }
        };
        if let Network::Slow(by) = passable(&mut network).await? {
            tokio::time::sleep(by).await;
        }
        to.write_all(&chunk[..read]).await.ok()?;
    }
}

/// Waits until something arrives again; `None` where the connection is broken.
async fn passable(network: &mut watch::Receiver<Network>) -> Option<Network> {
    let now = *network.wait_for(|network| *network != Network::Frozen).await.ok()?;
    match now {
        Network::Cut => None,
        Network::Lost => {
            // Until the proxy itself is gone.
            while network.changed().await.is_ok() {}
            None
        }
        passable => Some(passable),
    }
}
