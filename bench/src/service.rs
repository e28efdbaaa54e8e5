//! The service as a process of its own, with production's settings.

use std::net::SocketAddr;
use std::ops::Deref;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use usher_testkit::process::{self, Process, TIMEOUT, socket_address};

use crate::Bench;
use crate::database::Database;
use crate::load::Connection;
use crate::webhooks::Webhooks;

/// Between two looks; the timer knows no shorter time.
pub const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A running `usher serve`. Dropped, it is killed.
pub struct Service {
    process: Process,
    /// Where metrics are read.
    pub private: SocketAddr,
}

impl Deref for Service {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Service {
    /// Starts it and waits until it listens.
    pub async fn spawn(bench: &Bench, role: &str, database: &Database) -> anyhow::Result<Self> {
        Self::spawn_with(bench, role, database, &[]).await
    }

    async fn spawn_with(
        bench: &Bench,
        role: &str,
        database: &Database,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(&bench.program);
        command
            .args(["serve", "--role", role])
            .env_clear()
            .envs(process::environment(&database.url, &bench.smtp.url()))
            // One program asks for all.
            .env("USHER_RATE_LIMIT", "off")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            // No `.env` above our folder shall add to these.
            .current_dir("/");
        let process = Process::start(&mut command)?;
        process.listening().await?;
        let private = process.private().as_deref().and_then(socket_address);
        Ok(Self {
            private: private.context("no private address")?,
            process,
        })
    }

    /// Starts it and waits until it is ready.
    pub async fn start(bench: &Bench, role: &str, database: &Database) -> anyhow::Result<Self> {
        Self::start_with(bench, role, database, &[]).await
    }

    /// Starts it with more settings, and waits until it is ready.
    pub async fn start_with(
        bench: &Bench,
        role: &str,
        database: &Database,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let service = Self::spawn_with(bench, role, database, settings).await?;
        service.ready(POLL_INTERVAL, TIMEOUT).await?;
        Ok(service)
    }

    /// Where webhooks go.
    pub fn public(&self) -> anyhow::Result<SocketAddr> {
        let public = self.process.public();
        public.as_deref().and_then(socket_address).context("it has no API")
    }

    /// Its metrics, as text.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let mut private = Connection::open(self.private).await?;
        ensure!(private.call(b"GET /metrics HTTP/1.1\r\nHost: usher\r\n\r\n").await? == 200);
        Ok(private.last_answer())
    }

    /// Sends one webhook as soon as it listens; returns how long its 202 took since the service was started.
    pub async fn first_answer(&self, webhooks: &Webhooks, number: usize) -> anyhow::Result<Duration> {
        let mut request = webhooks.blank();
        webhooks.fill(&mut request, number);
        loop {
            if let Ok(mut connection) = Connection::open(self.public()?).await {
                let status = connection.call(&request).await?;
                ensure!(status == 202, "the first webhook was answered {status}");
                return Ok(self.started().elapsed());
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// The buckets of a histogram, `name{labels,le="`, up to so many seconds: milliseconds, and which part took no longer.
pub fn buckets(metrics: &str, name: &str, up_to: f64) -> Vec<(f64, f64)> {
    let bucket = |line: &str| {
        let (seconds, count) = line.strip_prefix(name)?.split_once("\"} ")?;
        let seconds = if seconds == "+Inf" {
            f64::INFINITY
        } else {
            seconds.parse().ok()?
        };
        Some((seconds, count.parse::<f64>().ok()?))
    };
    let buckets: Vec<(f64, f64)> = metrics.lines().filter_map(bucket).collect();
    let all = buckets.last().map_or(1.0, |(_, count)| count.max(1.0));
    let shown = buckets.iter().filter(|(seconds, _)| *seconds <= up_to);
    shown.map(|(seconds, count)| (seconds * 1000.0, count / all)).collect()
}
