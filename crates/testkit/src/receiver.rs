//! A receiver of usher's events on a real socket that answers as it is told. Fast enough for benchmarks, too.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use svix::webhooks::Webhook;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// What a receiver does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behave {
    /// Answers with a status and these header lines.
    Answer(u16, &'static str),
    /// Answers 200, one byte after the other, with this pause between them.
    Dribble(Duration),
    /// Says nothing and keeps the connection.
    Hang,
    /// Closes the connection without an answer.
    Reset,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The request line and the headers.
    pub head: String,
    /// The body.
    pub body: String,
    /// When it was complete.
    pub at: Instant,
    /// What it was answered.
    pub answer: Behave,
}

impl Heard {
    /// A header's value, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        header(&self.head, name)
    }

    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// Whether one of its signatures is of this secret.
    #[must_use]
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let Ok(timestamp) = self.header("webhook-timestamp").parse() else {
            return false;
        };
        let id = self.header("webhook-id");
        let expected = Webhook::new(secret).and_then(|key| key.sign(id, timestamp, self.body.as_bytes()));
        expected.is_ok_and(|expected| self.header("webhook-signature").split(' ').any(|one| one == expected))
    }

    /// Whether it was answered 2xx.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self.answer, Behave::Answer(200..300, _) | Behave::Dribble(_))
    }
}

/// Chooses the answer to each request.
type Choice = Box<dyn FnMut() -> Behave + Send>;

/// The receiver. It accepts no more connections when it is dropped.
pub struct Receiver {
    /// Where events go.
    pub url: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    next: VecDeque<Behave>,
    choice: Option<Choice>,
    heard: Vec<Heard>,
    connections: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Receiver {
    /// Starts one on a free port. It answers 200.
    ///
    /// # Panics
    /// When there is no free port.
    #[expect(clippy::expect_used, reason = "nothing can be tested without a free port")]
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let kept = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                kept.lock().connections += 1;
                tokio::spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Self {
            url: format!("http://{address}/hooks/usher"),
            shared,
            accepting,
        }
    }

    /// What it does with the next requests.
    pub fn next(&self, behaviours: impl IntoIterator<Item = Behave>) {
        self.shared.lock().next.extend(behaviours);
    }

    /// What it does with all requests after that; `None`: answer 200.
    pub fn always(&self, behaviour: Option<Behave>) {
        self.shared.lock().choice = behaviour.map(|behaviour| Box::new(move || behaviour) as Choice);
    }

    /// Chooses what it does with each request after that.
    pub fn choose(&self, choice: impl FnMut() -> Behave + Send + 'static) {
        self.shared.lock().choice = Some(Box::new(choice));
    }

    /// Everything that came, in order.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.lock().heard.clone()
    }

    /// Everything that came, taken out.
    #[must_use]
    pub fn take_heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.shared.lock().heard)
    }

    /// How many requests came.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.lock().heard.len()
    }

    /// Waits until so many requests have come.
    pub async fn heard_at_least(&self, count: usize) {
        loop {
            let changed = self.shared.changed.notified();
            if self.count() >= count {
                return;
            }
            changed.await;
        }
    }

    /// How many connections were opened.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some((head, body)) = read(&mut stream, &mut buffer).await {
        let behaviour = {
            let mut state = shared.lock();
            let next = state.next.pop_front();
            let chosen = next.or_else(|| state.choice.as_mut().map(|choose| choose()));
            let answer = chosen.unwrap_or(Behave::Answer(200, ""));
            let at = Instant::now();
            state.heard.push(Heard { head, body, at, answer });
            answer
        };
        shared.changed.notify_waiters();
        if answer(&mut stream, behaviour).await.is_none() {
            return;
        }
    }
}

/// `None` once the connection is over.
async fn answer(stream: &mut TcpStream, behaviour: Behave) -> Option<()> {
    match behaviour {
        Behave::Answer(status, headers) => {
            let answer = format!("HTTP/1.1 {status} As Told\r\n{headers}Content-Length: 5\r\n\r\nsorry");
            stream.write_all(answer.as_bytes()).await.ok()
        }
        Behave::Dribble(pause) => {
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" {
                stream.write_all(&[*byte]).await.ok()?;
                sleep(pause).await;
            }
            Some(())
        }
        Behave::Hang => {
            // Until the client gives up.
            let _ = stream.read(&mut [0]).await;
            None
        }
        Behave::Reset => None,
    }
}

/// The head and the body of a connection's next request.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, String)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let length: usize = header(&head, "content-length").parse().unwrap_or(0);
            let end = end + 4;
            if buffer.len() >= end + length {
                let body = String::from_utf8_lossy(&buffer[end..end + length]).into_owned();
                buffer.drain(..end + length);
                return Some((head, body));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map_or("", |(_, value)| value)
}
