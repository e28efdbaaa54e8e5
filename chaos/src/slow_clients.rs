//! Clients that are no good to anybody: they connect and say nothing, stop in the middle, say a byte a second, or never
//! read what they asked for. Hundreds of them at once, at both listeners of every process.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::anyhow;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use usher::clock::Clock;
use usher_testkit::process::socket_address;

use crate::fleet::Process;
use crate::journal::Journal;

/// How long a connection may take to come about.
const TIME_TO_CONNECT: Duration = Duration::from_secs(5);
/// How long it takes until all are there.
const TIME_TO_COME: Duration = Duration::from_secs(2);
/// Between the end of a connection and the next.
const BEFORE_THE_NEXT: Duration = Duration::from_secs(1);
/// Requests that a client sends who never reads; their answers fill every buffer.
const UNREAD: usize = 50;

/// The head of a webhook that is worth waiting for: whether its signature is right, only its body tells.
fn head() -> String {
    let now = Clock::System.now().timestamp();
    format!(
        "POST /webhooks/clerk HTTP/1.1\r\nhost: usher\r\ncontent-type: application/json\r\nsvix-id: msg_slow\r\n\
         svix-timestamp: {now}\r\nsvix-signature: v1,x\r\ncontent-length: 1000\r\n"
    )
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Habit {
    /// It says nothing.
    Silent,
    /// It stops within the head.
    HalfHead,
    /// It stops within the body.
    HalfBody,
    /// It ends its side within the head, and waits.
    HalfClosed,
    /// It says a byte of a head each second.
    SlowHead,
    /// It says a byte of a body each second.
    SlowBody,
    /// It asks, and never reads.
    Unread,
}

impl Habit {
    const ALL: [Self; 7] = [
        Self::Silent,
        Self::HalfHead,
        Self::HalfBody,
        Self::HalfClosed,
        Self::SlowHead,
        Self::SlowBody,
        Self::Unread,
    ];
}

impl fmt::Display for Habit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "silent",
            Self::HalfHead => "half a head",
            Self::HalfBody => "half a body",
            Self::HalfClosed => "half closed",
            Self::SlowHead => "a byte of a head each second",
            Self::SlowBody => "a byte of a body each second",
            Self::Unread => "never reading",
        })
    }
}

/// How many of one habit are connected.
#[derive(Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// Clients, until they are sent away. They live in a thread of their own: what the harness itself carries and asks must
/// not stand in line behind them.
pub struct SlowClients {
    stop: watch::Sender<bool>,
    thread: JoinHandle<std::io::Result<()>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    held: [Held; Habit::ALL.len()],
    connected: AtomicUsize,
}

impl SlowClients {
    /// So many clients come, shared out among the habits and the listeners.
    pub fn connect(clients: usize, processes: &[Arc<Process>]) -> Self {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for process in processes {
            let listeners = [process.public(), process.private()].into_iter().flatten();
            addresses.extend(listeners.filter_map(|url| socket_address(&url)));
        }
        let (stop, stopped) = watch::channel(false);
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(until_stopped(clients, addresses, shared, stopped));
            Ok(())
        });
        Self { stop, thread, counts }
    }

    /// They leave; the journal is told how many there were.
    pub async fn leave(self, journal: &Journal) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        let thread = self.thread;
        let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
        ended.map_err(|_| anyhow!("the slow clients panicked"))??;
        for (habit, held) in Habit::ALL.iter().zip(&self.counts.held) {
            let most = held.most.load(Ordering::Relaxed);
            journal.size(&format!("connections held at once: {habit}"), most as u64);
        }
        let times = self.counts.connected.load(Ordering::Relaxed);
        journal.count_many("connections of slow, silent and half-open clients", times);
        Ok(())
    }
}

async fn until_stopped(
    clients: usize,
    addresses: Vec<SocketAddr>,
    counts: Arc<Counts>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let habit = client % Habit::ALL.len();
        let Some(&address) = addresses.get((client / Habit::ALL.len()) % addresses.len().max(1)) else {
            return;
        };
        let counts = Arc::clone(&counts);
        let first = TIME_TO_COME.mul_f64(client as f64 / clients as f64);
        tasks.spawn(async move {
            sleep(first).await;
            loop {
                // Refused is as good as closed: it is the server's right.
                if let Ok(Ok(stream)) = timeout(TIME_TO_CONNECT, connect(Habit::ALL[habit], address)).await {
                    counts.connected.fetch_add(1, Ordering::Relaxed);
                    let guard = Connected::of(&counts.held[habit]);
                    behave(Habit::ALL[habit], stream).await;
                    drop(guard);
                }
                sleep(BEFORE_THE_NEXT).await;
            }
        });
    }
    // With the set, all of them end.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn connect(habit: Habit, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if habit == Habit::Unread {
        // Else gigabytes of the kernel's memory would be what is held.
        socket.set_recv_buffer_size(4096)?;
    }
    socket.connect(address).await
}

/// Counts a connection while it lasts.
struct Connected<'a>(&'a Held);

impl<'a> Connected<'a> {
    fn of(held: &'a Held) -> Self {
        let now = held.now.fetch_add(1, Ordering::Relaxed) + 1;
        held.most.fetch_max(now, Ordering::Relaxed);
        Self(held)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Until the server closes the connection.
async fn behave(habit: Habit, mut stream: TcpStream) {
    let said = match habit {
        Habit::Silent => Ok(()),
        Habit::HalfHead => stream.write_all(&head().as_bytes()[..60]).await,
        Habit::HalfBody | Habit::SlowBody => stream.write_all(format!("{}\r\n{{\"type\":", head()).as_bytes()).await,
        Habit::HalfClosed => match stream.write_all(&head().as_bytes()[..60]).await {
            Ok(()) => stream.shutdown().await,
            failed => failed,
        },
        Habit::SlowHead => stream.write_all(b"GET / HTTP/1.1\r\nx-slow: ").await,
        Habit::Unread => {
            let request = "GET /openapi.json HTTP/1.1\r\nhost: usher\r\n\r\n".repeat(UNREAD);
            let said = stream.write_all(request.as_bytes()).await;
            // Readable for ever, so its end shows only when something is written.
            while said.is_ok() && stream.write_all(b"\r\n").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
            return;
        }
    };
    let mut read = [0; 1024];
    let mut is_open = said.is_ok();
    while is_open {
        is_open = match timeout(Duration::from_secs(1), stream.read(&mut read)).await {
            Ok(Ok(count)) => count > 0,
            Ok(Err(_)) => false,
            Err(_) if matches!(habit, Habit::SlowHead | Habit::SlowBody) => stream.write_all(b" ").await.is_ok(),
            Err(_) => true,
        };
    }
}
