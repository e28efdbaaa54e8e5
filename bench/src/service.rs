//! The service as a process of its own, with production's settings.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::Bench;
use crate::database::Database;
use crate::load::Connection;
use crate::webhooks::{SIGNING_SECRET, Webhooks};

/// How long starting and stopping may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks; the timer knows no shorter time.
pub const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What the service takes for the app's key.
pub const API_KEY: &str = "bench-bench-bench-bench-bench-bench";

/// The `usher` program that was built beside this one.
pub fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("usher");
    ensure!(
        path.is_file(),
        "{} is missing; build it with: cargo build --release --bin usher",
        path.display()
    );
    Ok(path)
}

/// A running `usher serve`. Dropped, it is killed.
pub struct Service {
    child: Child,
    log: PathBuf,
    started: Instant,
    /// Where webhooks go.
    pub public: SocketAddr,
    /// Where metrics are read.
    pub private: SocketAddr,
}

impl Service {
    /// Starts it and does not wait.
    pub fn spawn(bench: &Bench, role: &str, database: &Database) -> anyhow::Result<Self> {
        let (public, private) = (free_address()?, free_address()?);
        let log = bench.home.folder.join(format!("usher-{}.log", public.port()));
        let child = Command::new(&bench.program)
            .args(["serve", "--role", role])
            .env_clear()
            .envs([
                ("USHER_ENV", "production"),
                ("USHER_DATABASE_URL", &database.url),
                ("USHER_LISTEN", &public.to_string()),
                ("USHER_ADMIN_LISTEN", &private.to_string()),
                ("CLERK_WEBHOOK_SIGNING_SECRET", SIGNING_SECRET),
                ("USHER_API_KEYS", API_KEY),
                // One program asks for all.
                ("USHER_RATE_LIMIT", "off"),
                ("USHER_TOKEN_KEY", "bench-bench-bench-bench-bench-bench"),
                ("SMTP_URL", &format!("smtp://{}", bench.sink.address)),
                ("MAIL_FROM", "bench <bench@example.com>"),
                ("INVITE_URL", "https://app.example.com/invite#{token}"),
                ("LOG_FORMAT", "json"),
                // No load balancer has to hear of an end.
                ("USHER_DRAIN_TIME", "off"),
            ])
            // No `.env` above our folder shall add to these.
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        Ok(Self {
            child,
            log,
            started: Instant::now(),
            public,
            private,
        })
    }

    /// Starts it and waits until it is ready.
    pub async fn start(bench: &Bench, role: &str, database: &Database) -> anyhow::Result<Self> {
        let mut service = Self::spawn(bench, role, database)?;
        service.ready().await?;
        Ok(service)
    }

    /// Waits until it says that it can work; returns how long that took since it was started.
    pub async fn ready(&mut self) -> anyhow::Result<Duration> {
        const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: usher\r\n\r\n";
        loop {
            if let Ok(mut connection) = Connection::open(self.private).await
                && connection.call(REQUEST).await? == 200
            {
                return Ok(self.started.elapsed());
            }
            self.wait_a_little().await?;
        }
    }

    /// Sends one webhook as soon as somebody listens; returns how long its 202 took since the service was started.
    pub async fn first_answer(&mut self, webhooks: &Webhooks, number: usize) -> anyhow::Result<Duration> {
        let mut request = webhooks.blank();
        webhooks.fill(&mut request, number);
        loop {
            if let Ok(mut connection) = Connection::open(self.public).await {
                let status = connection.call(&request).await?;
                ensure!(status == 202, "the first webhook was answered {status}");
                return Ok(self.started.elapsed());
            }
            self.wait_a_little().await?;
        }
    }

    async fn wait_a_little(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        if ended.is_some() || self.started.elapsed() > PATIENCE {
            bail!("usher did not start: {}", self.said());
        }
        sleep(LOOK_AGAIN).await;
        Ok(())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory in MB.
    pub fn memory_mb(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = resident
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .context("no VmRSS")?
            .parse()?;
        Ok(kib / 1024.0)
    }

    /// Processor time that it has used so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(&self.child.id().to_string())
    }

    /// Asks it to end, as an orchestrator would, and insists on a clean end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(asked.elapsed() < PATIENCE, "usher did not end: {}", self.said());
            sleep(LOOK_AGAIN).await;
        };
        ensure!(status.success(), "usher ended with {status}: {}", self.said());
        std::fs::remove_file(&self.log)?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both do nothing where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What Linux counts processor time in, whatever the kernel's own clock does.
const TICKS_PER_SECOND: u32 = 100;

/// Processor time of this process, which is mostly the load's.
pub fn own_cpu() -> anyhow::Result<Duration> {
    cpu_of("self")
}

fn cpu_of(process: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in brackets, may hold spaces; user and system time are the 14th and 15th field of all.
    let (_, fields) = stat.rsplit_once(") ").context("no stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs(ticks) / TICKS_PER_SECOND)
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
