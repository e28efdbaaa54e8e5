//! The load: as little work per request as can be, since it runs on the cores that it measures.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

use crate::webhooks::Webhooks;

/// How to send webhooks.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Kept open, each with one request under way.
    pub connections: usize,
    /// Load before anything is counted.
    pub warm_up: Duration,
    /// How long is measured.
    pub time: Duration,
    /// Requests a second, sent whether or not others are answered, as long as a connection is free; latency counts
    /// from the moment at which a request was due. Without it each connection sends when its last is answered.
    pub rate: Option<u32>,
    /// The only right answer.
    pub status: u16,
}

/// What was seen.
pub struct Seen {
    /// Right answers in all, the warm-up's too.
    pub answers: usize,
    /// Answers in the measured time, and how long they took.
    pub latencies: Latencies,
}

/// A rate and how it felt.
#[derive(Clone, Copy, Serialize)]
pub struct Latencies {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Latencies {
    /// Of latencies in microseconds, collected in `time`.
    pub fn of(histogram: &Histogram<u64>, time: Duration) -> Self {
        let ms = |microseconds: u64| microseconds as f64 / 1000.0;
        Self {
            per_second: histogram.len() as f64 / time.as_secs_f64(),
            p50_ms: ms(histogram.value_at_quantile(0.5)),
            p99_ms: ms(histogram.value_at_quantile(0.99)),
            max_ms: ms(histogram.max()),
        }
    }
}

/// Sends until the time is over or no webhook is left, and waits for every answer.
pub async fn run(address: SocketAddr, webhooks: Rc<Webhooks>, plan: Plan) -> anyhow::Result<Seen> {
    let mut connections = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        connections.push(Connection::open(address).await?);
    }
    let begin = Instant::now() + plan.warm_up;
    let shared = Rc::new(Shared {
        start: Instant::now(),
        begin,
        end: begin + plan.time,
        next: Cell::new(0),
        last: Cell::new(begin),
        latencies: RefCell::new(Histogram::new_with_bounds(1, 60_000_000, 3)?),
        webhooks,
        plan,
    });
    let local = LocalSet::new();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| local.spawn_local(send(connection, Rc::clone(&shared))))
        .collect();
    local
        .run_until(async {
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(())
        })
        .await?;
    let time = shared.last.get() - begin;
    let latencies = Latencies::of(&shared.latencies.borrow(), time);
    Ok(Seen {
        answers: shared.next.get(),
        latencies,
    })
}

struct Shared {
    start: Instant,
    begin: Instant,
    end: Instant,
    next: Cell<usize>,
    last: Cell<Instant>,
    latencies: RefCell<Histogram<u64>>,
    webhooks: Rc<Webhooks>,
    plan: Plan,
}

async fn send(mut connection: Connection, shared: Rc<Shared>) -> anyhow::Result<()> {
    let mut request = shared.webhooks.blank();
    loop {
        let number = shared.next.get();
        let due = match shared.plan.rate {
            Some(rate) => shared.start + Duration::from_secs_f64(number as f64 / f64::from(rate)),
            None => Instant::now(),
        };
        if due >= shared.end || number == shared.webhooks.len() {
            return Ok(());
        }
        shared.next.set(number + 1);
        if shared.plan.rate.is_some() {
            sleep_until(due).await;
        }
        shared.webhooks.fill(&mut request, number);
        let status = connection.call(&request).await?;
        ensure!(
            status == shared.plan.status,
            "answered {status}: {}",
            connection.last_answer()
        );
        let now = Instant::now();
        if now >= shared.begin && now < shared.end {
            let latency = u64::try_from((now - due).as_micros())?;
            shared.latencies.borrow_mut().saturating_record(latency);
            shared.last.set(now);
        }
    }
}

/// A keep-alive connection that knows just enough of HTTP/1.1.
pub struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            answer: Vec::with_capacity(4096),
        })
    }

    /// Sends a request and reads its whole answer; returns the status.
    pub async fn call(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                bail!("the service closed the connection after: {}", self.last_answer());
            }
            if let Some((status, length)) = head(&self.answer)?
                && self.answer.len() >= length
            {
                return Ok(status);
            }
        }
    }

    /// What the last call was answered, head and body.
    pub fn last_answer(&self) -> String {
        String::from_utf8_lossy(&self.answer).into_owned()
    }
}

/// The status and the length of the whole answer, once its head is there.
fn head(answer: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&answer[..end])?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .context("no status")?;
    let length = lines
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or("0", |(_, length)| length);
    Ok(Some((status.parse()?, end + 4 + length.parse::<usize>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is_there() {
        assert_eq!(head(b"HTTP/1.1 202 Accepted\r\ncontent-le").unwrap(), None);
        let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\nx: y\r\n\r\n{}";
        assert_eq!(head(answer).unwrap(), Some((202, answer.len())));
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(head(answer).unwrap(), Some((204, answer.len())));
    }
}
