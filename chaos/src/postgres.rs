//! A Postgres server of the harness's own, to be stopped, killed and starved.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long stopping and starting may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The role that usher connects as: no superuser, so that the server can run out of connections for it.
pub const ROLE: &str = "usher_app";
/// usher's database.
pub const DATABASE: &str = "chaos";

/// How the server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Connections are cut, transactions rolled back, everything written out.
    Fast,
    /// As in a crash, but in order.
    Immediate,
    /// `kill -9`.
    Kill,
}

/// The server. It is removed when this is dropped, or when the harness dies.
pub struct Postgres {
    /// `scripts/with-postgres`, which keeps the server while its standard input is open.
    keeper: Child,
    admin: String,
    data: PathBuf,
    programs: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Postgres {
    /// Makes one, as durable as in production.
    pub async fn start() -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/with-postgres");
        let mut keeper = Command::new(script)
            .args(["sh", "-c", "echo \"$USHER_TEST_POSTGRES_URL\"; exec cat"])
            .env("USHER_TEST_POSTGRES_FSYNC", "on")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("scripts/with-postgres can't be run")?;
        let said = keeper.stdout.take().context("no output")?;
        let admin = BufReader::new(said).lines().next_line().await?;
        let admin = admin.context("scripts/with-postgres gave no server")?;
        let mut conn = PgConnection::connect(&admin).await?;
        let data: String = sqlx::query_scalar("show data_directory").fetch_one(&mut conn).await?;
        let port: String = sqlx::query_scalar("show port").fetch_one(&mut conn).await?;
        let programs: String = sqlx::query_scalar("select setting from pg_config where name = 'BINDIR'")
            .fetch_one(&mut conn)
            .await?;
        for text in [
            format!("create role {ROLE} login"),
            format!("create database {DATABASE} owner {ROLE}"),
        ] {
            sqlx::query(AssertSqlSafe(text)).execute(&mut conn).await?;
        }
        Ok(Self {
            keeper,
            admin,
            data: data.into(),
            programs: programs.into(),
            address: (Ipv4Addr::LOCALHOST, port.parse()?).into(),
        })
    }

    /// usher's database as usher reaches it, by way of `address`.
    pub fn url_by(address: SocketAddr) -> String {
        format!("postgres://{ROLE}@{address}/{DATABASE}")
    }

    /// usher's database as the server's owner reaches it, past the proxy.
    pub fn url(&self) -> String {
        let server = self
            .admin
            .rsplit_once('/')
            .map_or(self.admin.as_str(), |(server, _)| server);
        format!("{server}/{DATABASE}")
    }

    /// Stops it.
    pub async fn stop(&self, how: Stop) -> anyhow::Result<()> {
        let mode = match how {
            Stop::Kill => return self.kill_the_postmaster(),
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        let stopped = self.control(&["stop", "--wait", "--mode", mode]).await?;
        ensure!(stopped, "Postgres did not stop");
        Ok(())
    }

    fn kill_the_postmaster(&self) -> anyhow::Result<()> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid"))?;
        let pid = file
            .lines()
            .next()
            .and_then(|line| line.parse().ok())
            .and_then(Pid::from_raw);
        kill_process(pid.context("postmaster.pid names no process")?, Signal::KILL)?;
        Ok(())
    }

    /// Starts it again and waits until it answers.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        let since = Instant::now();
        let log = self.data.with_file_name("server.log").display().to_string();
        // The children of a killed postmaster must have noticed first.
        while !self.control(&["start", "--wait", "--log", &log]).await? {
            ensure!(since.elapsed() < PATIENCE, "Postgres did not start again; see {log}");
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn control(&self, arguments: &[&str]) -> anyhow::Result<bool> {
        let mut command = Command::new(self.programs.join("pg_ctl"));
        command.args(arguments).arg("--silent").arg("--pgdata").arg(&self.data);
        command.current_dir("/").env_clear().env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if geteuid().is_root() {
            let owner = std::fs::metadata(&self.data)?;
            command.uid(owner.uid()).gid(owner.gid());
        }
        Ok(command.status().await?.success())
    }

    /// Ends the connections that usher has: by a word, or one of them by `kill -9`, which restarts the whole server.
    pub async fn end_backends(&self, by_kill: bool) -> anyhow::Result<()> {
        let mut conn = PgConnection::connect(&self.admin).await?;
        if by_kill {
            let pid: Option<i32> = sqlx::query_scalar("select min(pid) from pg_stat_activity where usename = $1")
                .bind(ROLE)
                .fetch_one(&mut conn)
                .await?;
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                kill_process(pid, Signal::KILL)?;
                self.wait_for_recovery().await?;
            }
        } else {
            sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1")
                .bind(ROLE)
                .execute(&mut conn)
                .await?;
        }
        Ok(())
    }

    /// A server that recovers from a crash can't be stopped in order.
    async fn wait_for_recovery(&self) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            // Not the moment before it has noticed.
            sleep(Duration::from_millis(300)).await;
            match PgConnection::connect(&self.admin).await {
                Ok(_) => return Ok(()),
                Err(error) if since.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => {}
            }
        }
    }

    /// Lets usher have at most so many connections; `-1` is no limit.
    pub async fn limit_connections(&self, most: i32) -> anyhow::Result<()> {
        let mut conn = PgConnection::connect(&self.admin).await?;
        let text = format!("alter role {ROLE} connection limit {most}");
        sqlx::query(AssertSqlSafe(text)).execute(&mut conn).await?;
        Ok(())
    }

    /// Writes the database to a file, for looking at what went wrong.
    pub async fn dump(&self, to: &Path) -> anyhow::Result<()> {
        let dumped = Command::new(self.programs.join("pg_dump"))
            .args(["--dbname", &self.url(), "--file"])
            .arg(to)
            .status()
            .await?;
        ensure!(dumped.success(), "pg_dump failed");
        let log = std::fs::read_to_string(self.data.with_file_name("server.log")).unwrap_or_default();
        std::fs::write(to.with_extension("log"), log)?;
        Ok(())
    }

    /// Which Postgres it is.
    pub async fn version(&self) -> anyhow::Result<String> {
        let mut conn = PgConnection::connect(&self.admin).await?;
        let version: String = sqlx::query_scalar("show server_version").fetch_one(&mut conn).await?;
        let mut said = String::from("PostgreSQL ");
        write!(said, "{}", version.split(' ').next().unwrap_or_default())?;
        Ok(said)
    }

    /// Removes it.
    pub async fn remove(mut self) -> anyhow::Result<()> {
        drop(self.keeper.stdin.take());
        self.keeper.wait().await?;
        Ok(())
    }
}
