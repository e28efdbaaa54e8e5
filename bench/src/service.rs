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
        let mut command = Command::new(&bench.program);
        command
            .args(["serve", "--role", role])
            .env_clear()
            .envs(process::environment(&database.url, &bench.smtp.url()))
            // One program asks for all.
            .env("USHER_RATE_LIMIT", "off")
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
        let service = Self::spawn(bench, role, database).await?;
        service.ready(POLL_INTERVAL, TIMEOUT).await?;
        Ok(service)
    }

    /// Where webhooks go.
    pub fn public(&self) -> anyhow::Result<SocketAddr> {
        let public = self.process.public();
        public.as_deref().and_then(socket_address).context("it has no API")
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
