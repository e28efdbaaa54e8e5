//! A Postgres server of the harness's own, to be stopped, killed and starved.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long stopping and starting may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The role that usher connects as: no superuser, so that the server can run out of connections for it.
pub const ROLE: &str = "usher_app";
/// The server's owner, as `scripts/with-postgres` has it.
const OWNER: &str = "usher";
/// usher's database.
pub const DATABASE: &str = "chaos";

/// A server that can take another's place.
pub struct Standby(Server);

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

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
    /// `scripts/with-postgres`, which keeps the first server while its standard input is open, and the folder of all.
    keeper: Child,
    programs: PathBuf,
    /// The one that is in office, and how many have been.
    server: Mutex<Server>,
}

/// One server; another takes its place when it fails over.
#[derive(Debug, Clone)]
struct Server {
    number: usize,
    data: PathBuf,
    address: SocketAddr,
}

impl Server {
    /// A database of it, as its owner.
    fn url(&self, database: &str) -> String {
        format!("postgres://{OWNER}@{}/{database}", self.address)
    }
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
        let server = Server {
            number: 0,
            data: data.into(),
            address: (Ipv4Addr::LOCALHOST, port.parse()?).into(),
        };
        Ok(Self {
            keeper,
            programs: programs.into(),
            server: Mutex::new(server),
        })
    }

    fn server(&self) -> Server {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn admin(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect(&self.server().url("postgres")).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server().address
    }

    /// usher's database as usher reaches it, by way of `address`.
    pub fn url_by(address: SocketAddr) -> String {
        format!("postgres://{ROLE}@{address}/{DATABASE}")
    }

    /// usher's database as the server's owner reaches it, past the proxy.
    pub fn url(&self) -> String {
        self.server().url(DATABASE)
    }

    /// Stops it.
    pub async fn stop(&self, how: Stop) -> anyhow::Result<()> {
        let mode = match how {
            Stop::Kill => return self.kill_the_postmaster(),
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        let stopped = self
            .control(&self.server(), &["stop", "--wait", "--mode", mode])
            .await?;
        ensure!(stopped, "Postgres did not stop");
        Ok(())
    }

    fn kill_the_postmaster(&self) -> anyhow::Result<()> {
        let file = std::fs::read_to_string(self.server().data.join("postmaster.pid"))?;
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
        let (since, server) = (Instant::now(), self.server());
        let log = server.data.with_file_name("server.log").display().to_string();
        // The children of a killed postmaster must have noticed first.
        while !self.control(&server, &["start", "--wait", "--log", &log]).await? {
            ensure!(since.elapsed() < TIMEOUT, "Postgres did not start again; see {log}");
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn control(&self, server: &Server, arguments: &[&str]) -> anyhow::Result<bool> {
        let mut command = self.program("pg_ctl")?;
        command
            .args(arguments)
            .arg("--silent")
            .arg("--pgdata")
            .arg(&server.data);
        Ok(command.status().await?.success())
    }

    /// One of the server's programs, run as whoever owns its files.
    fn program(&self, name: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir("/").env_clear().env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if geteuid().is_root() {
            let owner = std::fs::metadata(self.server().data)?;
            command.uid(owner.uid()).gid(owner.gid());
        }
        Ok(command)
    }

    /// Makes a standby that has everything which is acknowledged from now on.
    pub async fn prepare_standby(&self) -> anyhow::Result<Standby> {
        let primary = self.server();
        let number = primary.number + 1;
        let standby = Server {
            number,
            data: primary.data.with_file_name(format!("data-{number}")),
            address: (Ipv4Addr::LOCALHOST, free_port()?).into(),
        };
        let copied = self
            .program("pg_basebackup")?
            .args(["--host", "127.0.0.1", "--port", &primary.address.port().to_string()])
            .args([
                "--username",
                OWNER,
                "--checkpoint",
                "fast",
                "--write-recovery-conf",
                "--pgdata",
            ])
            .arg(&standby.data)
            .status()
            .await?;
        ensure!(copied.success(), "pg_basebackup failed");
        let mut settings = std::fs::OpenOptions::new()
            .append(true)
            .open(standby.data.join("postgresql.conf"))?;
        std::io::Write::write_all(&mut settings, format!("port = {}\n", standby.address.port()).as_bytes())?;
        let log = standby.data.with_file_name("server.log").display().to_string();
        let started = self.control(&standby, &["start", "--wait", "--log", &log]).await?;
        ensure!(started, "the standby did not start; see {log}");

        let mut conn = self.admin().await?;
        for text in [
            "alter system set synchronous_standby_names = '*'",
            "select pg_reload_conf()",
        ] {
            sqlx::query(text).execute(&mut conn).await?;
        }
        let since = Instant::now();
        loop {
            let has_all: bool = sqlx::query_scalar(
                "select exists (select from pg_stat_replication where sync_state = 'sync' and flush_lsn >= pg_current_wal_lsn())",
            )
            .fetch_one(&mut conn)
            .await?;
            if has_all {
                return Ok(Standby(standby));
            }
            ensure!(since.elapsed() < TIMEOUT, "the standby did not catch up");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The server dies, and the standby is in its place; it only reads until it is [promoted](Self::promote).
    pub async fn fail_over(&self, standby: Standby) -> anyhow::Result<()> {
        self.stop(Stop::Immediate).await?;
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = standby.0;
        Ok(())
    }

    /// The server in office takes over, where it is a standby.
    pub async fn promote(&self) -> anyhow::Result<()> {
        let promoted = self.control(&self.server(), &["promote", "--wait"]).await?;
        ensure!(promoted, "the standby was not promoted");
        Ok(())
    }

    /// Ends the connections that usher has: by a word, or one of them by `kill -9`, which restarts the whole server.
    pub async fn end_backends(&self, by_kill: bool) -> anyhow::Result<()> {
        let mut conn = self.admin().await?;
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
            match self.admin().await {
                Ok(_) => return Ok(()),
                Err(error) if since.elapsed() > TIMEOUT => return Err(error.into()),
                Err(_) => {}
            }
        }
    }

    /// Lets usher have at most so many connections; `-1` is no limit.
    pub async fn limit_connections(&self, most: i32) -> anyhow::Result<()> {
        let mut conn = self.admin().await?;
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
        let log = std::fs::read_to_string(self.server().data.with_file_name("server.log")).unwrap_or_default();
        std::fs::write(to.with_extension("log"), log)?;
        Ok(())
    }

    /// Which Postgres it is.
    pub async fn version(&self) -> anyhow::Result<String> {
        let mut conn = self.admin().await?;
        let version: String = sqlx::query_scalar("show server_version").fetch_one(&mut conn).await?;
        let mut said = String::from("PostgreSQL ");
        write!(said, "{}", version.split(' ').next().unwrap_or_default())?;
        Ok(said)
    }

    /// Removes it.
    pub async fn remove(mut self) -> anyhow::Result<()> {
        // The first one is the keeper's. The others would notice within a minute that their folder is gone.
        if self.server().number > 0 {
            self.stop(Stop::Immediate).await?;
        }
        drop(self.keeper.stdin.take());
        self.keeper.wait().await?;
        Ok(())
    }
}
