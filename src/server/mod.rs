//! The listeners: HTTP/1 over TCP, with a limit for everything that a client can make usher wait for or hold in memory.
//!
//! Each listener has its own connections ([`Limits`]), so that a full public one does not affect the private one. A full
//! listener still accepts connections, and closes others that keep it waiting (`connections`). `progress` decides how long a
//! client may take; the connection's own task enforces it (`connection`).

mod body;
mod connection;
mod connections;
mod limits;
mod progress;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use body::{BodyError, BodyTimedOut, ClientTime, read_body, within};
pub use limits::{Limits, connections_within_open_files};

use connections::Connections;
use usher_base::Throttle;

/// Connections that the system completes before usher accepts them; the system has its own upper limit. Beyond it, a
/// client's first packet is dropped and sent again a second later.
const BACKLOG: u32 = 4096;
/// Before the next try, where the system has nothing left for a new connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// A listener that serves routes.
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    accepting: AbortOnDropHandle<()>,
    connections: Arc<Connections>,
}

impl Server {
    /// Listens on `address`, which `variable` sets, and serves. `name` is `public` or `private`.
    pub fn start(
        name: &'static str,
        variable: &'static str,
        address: SocketAddr,
        routes: Router,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let listener =
            listen(address).with_context(|| format!("{variable}={address} can't be listened on; is it taken?"))?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let connections = Connections::new(name, limits);
        let accepting = accept_all(name, listener, routes, Arc::clone(&connections), stop.clone());
        Ok(Self {
            address,
            stop,
            accepting: AbortOnDropHandle::new(tokio::spawn(accepting)),
            connections,
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, closes idle connections, and lets active ones finish within the limits.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.accepting.await;
        self.connections.finish().await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept_all(
    name: &'static str,
    listener: TcpListener,
    routes: Router,
    connections: Arc<Connections>,
    stop: CancellationToken,
) {
    let accept = async {
        let exhausted = Throttle::per_minute();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // Answers are small; send them at once.
                    let _ = stream.set_nodelay(true);
                    let open = connections.accept().await;
                    tokio::spawn(connection::serve(stream, peer, routes.clone(), open));
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if let Some(suppressed) = exhausted.admit() {
                        tracing::error!(
                            error = %error, suppressed,
                            "the {name} listener can't accept connections; retrying"
                        );
                    }
                    connections.make_room();
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accept).await;
}

/// Whether a connection ended before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
