//! A mail server that takes everything, and remembers to whom.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// One for all measures, on a thread of its own.
pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    taken: Mutex<Vec<Mail>>,
    silent: AtomicBool,
    unanswered: AtomicBool,
}

/// A mail that was taken.
pub struct Mail {
    /// The command, as it was said.
    pub recipient: Vec<u8>,
    pub at: Instant,
}

impl Sink {
    /// Starts it.
    pub fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let serving = serve(listener, Arc::clone(&shared));
        thread::spawn(move || runtime.block_on(serving));
        Ok(Self { address, shared })
    }

    /// How many mails there are.
    pub fn count(&self) -> usize {
        self.taken().len()
    }

    /// The mails so far; the next measure begins with none.
    pub fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut *self.taken())
    }

    /// Whether mails are left without an answer from now on.
    pub fn set_silent(&self, silent: bool) {
        self.shared.unanswered.store(false, Ordering::Relaxed);
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    /// Whether one was.
    pub fn has_left_one_unanswered(&self) -> bool {
        self.shared.unanswered.load(Ordering::Relaxed)
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Vec<Mail>> {
        self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(converse(stream, Arc::clone(&shared)));
    }
}

/// Every command is fine; the client waits for the answer to its content, so that nothing follows the final dot.
async fn converse(mut stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 sink\r\n").await?;
    let mut received = Vec::with_capacity(32 * 1024);
    let mut recipient = Vec::new();
    let mut is_content = false;
    loop {
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        if is_content {
            if !received.ends_with(b"\r\n.\r\n") {
                continue;
            }
            if shared.silent.load(Ordering::Relaxed) {
                shared.unanswered.store(true, Ordering::Relaxed);
                continue;
            }
            let mail = Mail {
                recipient: std::mem::take(&mut recipient),
                at: Instant::now(),
            };
            shared.taken.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
            is_content = false;
            received.clear();
            stream.write_all(b"250 taken\r\n").await?;
            continue;
        }
        let Some(end) = received.iter().rposition(|&byte| byte == b'\n') else {
            continue;
        };
        let mut answers = Vec::new();
        for line in received[..end].split(|&byte| byte == b'\n') {
            let command = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            answers.extend_from_slice(match &*command {
                b"EHLO" => b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
                b"DATA" => b"354 go on\r\n",
                b"QUIT" => b"221 bye\r\n",
                _ => b"250 fine\r\n".as_slice(),
            });
            if command == b"RCPT" {
                recipient = line.to_vec();
            }
            is_content |= command == b"DATA";
        }
        received.clear();
        stream.write_all(&answers).await?;
    }
}
