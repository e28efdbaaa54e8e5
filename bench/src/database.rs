//! A new and empty database for each measure, and a connection of our own to look into it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use clap::ValueEnum;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use usher::clock::Clock;
use usher::store::{Rules, Store};
use uuid::Uuid;

use crate::growth::Size;
use crate::webhooks;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Sqlite,
    Postgres,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "Postgres",
        })
    }
}

/// Where databases are made: files in a folder, and a server whose superuser we are.
pub struct Home {
    pub folder: PathBuf,
    pub postgres: Option<String>,
}

/// A database with usher's schema and no rows.
pub struct Database {
    pub url: String,
    kind: Kind,
    name: String,
    home: PathBuf,
    admin: Option<String>,
}

/// Bytes of an earlier event's payload.
const PAYLOAD: usize = 2000;

static MADE: AtomicUsize = AtomicUsize::new(0);

impl Database {
    /// Makes one.
    pub async fn create(kind: Kind, home: &Home) -> anyhow::Result<Self> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("usher_bench_{}_{number}", std::process::id());
        let url = match (kind, &home.postgres) {
            (Kind::Sqlite, _) => format!("sqlite://{}", home.folder.join(&name).display()),
            (Kind::Postgres, admin) => {
                let admin = admin.as_deref().context("USHER_TEST_POSTGRES_URL is not set")?;
                execute_as_admin(admin, format!("create database {name}")).await?;
                let (server, _) = admin
                    .rsplit_once('/')
                    .context("USHER_TEST_POSTGRES_URL names no database")?;
                format!("{server}/{name}")
            }
        };
        let store = Store::open(&url, Clock::System).await?;
        store.migrate(&Rules::default()).await?;
        store.close().await;
        Ok(Self {
            url,
            kind,
            name,
            home: home.folder.clone(),
            admin: home.postgres.clone(),
        })
    }

    /// A connection as durable as usher's own.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Ok(match self.kind {
            Kind::Postgres => Connection::Postgres(PgConnection::connect(&self.url).await?),
            Kind::Sqlite => {
                let options: SqliteConnectOptions = self.url.parse()?;
                let options = options
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full);
                Connection::Sqlite(options.connect().await?)
            }
        })
    }

    /// The queue's table, which apalis names differently.
    pub fn jobs(&self) -> &'static str {
        match self.kind {
            Kind::Postgres => "apalis.jobs",
            Kind::Sqlite => "Jobs",
        }
    }

    /// Leaves nothing behind.
    pub async fn remove(self) -> anyhow::Result<()> {
        match (self.kind, self.admin) {
            (Kind::Postgres, Some(admin)) => {
                execute_as_admin(&admin, format!("drop database {} with (force)", self.name)).await
            }
            _ => ["", "-wal", "-shm"]
                .iter()
                .try_for_each(|suffix| remove_file(&self.home.join(format!("{}{suffix}", self.name)))),
        }
    }
}

async fn execute_as_admin(admin: &str, statement: String) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(admin)
        .await
        .context("USHER_TEST_POSTGRES_URL can't be used")?;
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    Ok(())
}

fn remove_file(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// A connection to either.
pub enum Connection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// Runs one body against either connection.
macro_rules! on {
    ($connection:expr, |$conn:ident| $body:expr) => {
        match $connection {
            Connection::Postgres($conn) => $body,
            Connection::Sqlite($conn) => $body,
        }
    };
}

impl Connection {
    /// What the server or the library calls itself.
    pub async fn version(&mut self) -> anyhow::Result<String> {
        Ok(match self {
            Self::Postgres(conn) => {
                let version: String = sqlx::query_scalar("show server_version").fetch_one(conn).await?;
                format!("PostgreSQL {}", version.split(' ').next().unwrap_or_default())
            }
            Self::Sqlite(conn) => {
                let version: String = sqlx::query_scalar("select sqlite_version()").fetch_one(conn).await?;
                format!("SQLite {version}")
            }
        })
    }

    /// Puts a past into an empty database: organizations numbered from 1, which share the invites, and a queue.
    pub async fn fill(&mut self, size: Size) -> anyhow::Result<()> {
        for text in self.past(size) {
            let text = AssertSqlSafe(text);
            on!(self, |conn| sqlx::raw_sql(text).execute(conn).await.map(drop))?;
        }
        Ok(())
    }

    fn past(&self, size: Size) -> Vec<String> {
        let Size {
            organizations,
            invites,
            finished_jobs,
            pending_jobs,
            events,
        } = size;
        // Jobs have ULIDs; these are the first of all times.
        let (id, job_id, numbers, time, jobs, moment) = match self {
            Self::Postgres(_) => (
                "lpad(to_hex({n}), 32, '0')::uuid",
                "lpad(({n})::text, 26, '0')",
                "generate_series(1, {count}) as numbers (n)",
                "(now() + {seconds} * interval '1 second')",
                "apalis.jobs (job, id, job_type, max_attempts, priority, status, attempts, run_at, done_at)
                 select '{}'::bytea",
                "now() + {seconds} * interval '1 second'",
            ),
            Self::Sqlite(_) => (
                "unhex(printf('%032x', {n}))",
                "printf('%026d', {n})",
                "(with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < {count})
                  select n from numbers)",
                "strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', ({seconds}) || ' seconds')",
                "Jobs (job, id, job_type, max_attempts, priority, status, attempts, run_at, done_at)
                 select cast('{}' as blob)",
                "unixepoch() + {seconds}",
            ),
        };
        let id = |n: &str| id.replace("{n}", n);
        let job_id = |n: &str| job_id.replace("{n}", n);
        let numbers = |count: u32| numbers.replace("{count}", &count.to_string());
        let time = |seconds: &str| time.replace("{seconds}", &format!("({seconds})"));
        let moment = |seconds: &str| moment.replace("{seconds}", &format!("({seconds})"));
        let accepted = |value: &str| format!("case when n / {organizations} % 10 < 4 then {value} end");
        let mut texts = vec![
            format!(
                "insert into organizations (id, name, created_at, updated_at)
                 select {}, 'Organization ' || n, {now}, {now} from {}",
                id("n"),
                numbers(organizations),
                now = time("0"),
            ),
            format!(
                "insert into invites (id, kind, organization_id, email, email_key, role, status, acceptance, accepted_by,
                     accepted_at, invited_at, expires_at, created_at, updated_at, reminders_from, reminders_until)
                 select {}, 'organization', {}, email, email, 'member', {}, 'default', {}, {}, at, {end}, at, at, at, {end}
                 from (select n, 'earlier.' || n || '@example.com' as email, {} as at from {}) as earlier",
                id("n + 100000000"),
                id(&format!("n % {organizations} + 1")),
                format_args!("coalesce({}, 'pending')", accepted("'accepted'")),
                accepted(&id("n")),
                accepted(&time("-60")),
                time("-n"),
                numbers(invites),
                end = time("86400"),
            ),
            format!(
                "insert into {jobs}, {}, 'usher:process-clerk-event', 60, 0, 'Done', 1, {at}, {at} from {}",
                job_id("n"),
                numbers(finished_jobs.max(1)),
                at = moment("-n"),
            ),
            format!(
                "insert into {jobs}, {}, 'usher:process-clerk-event', 60, 0, 'Pending', 0, {}, null from {}",
                job_id("n + 1000000000"),
                moment("86400 + n"),
                numbers(pending_jobs.max(1)),
            ),
        ];
        if events > 0 {
            texts.push(format!(
                "insert into usher_events (svix_id, event_type, payload, received_at, processed_at, outcome)
                 select 'earlier_' || n, 'user.created', '{}', {at}, {at}, 'matched' from {}",
                "x".repeat(PAYLOAD),
                numbers(events),
                at = time("-n"),
            ));
        }
        // As after a night: Postgres knows its tables. A SQLite file is analyzed by nobody.
        if matches!(self, Self::Postgres(_)) {
            texts.push("analyze".to_owned());
        }
        texts
    }

    /// How many rows there are in a table, with a condition if need be.
    pub async fn count(&mut self, rows: &str) -> anyhow::Result<usize> {
        let text = AssertSqlSafe(format!("select count(*) from {rows}"));
        let count: i64 = on!(self, |conn| sqlx::query_scalar(text).fetch_one(conn).await)?;
        Ok(usize::try_from(count)?)
    }

    /// Whether there are any: cheaper to ask again and again than how many.
    pub async fn are_there(&mut self, rows: &str) -> anyhow::Result<bool> {
        let text = AssertSqlSafe(format!("select exists (select 1 from {rows})"));
        Ok(on!(self, |conn| sqlx::query_scalar(text).fetch_one(conn).await)?)
    }

    /// When the last event was processed.
    pub async fn last_processed(&mut self) -> anyhow::Result<DateTime<Utc>> {
        let text = "select processed_at from usher_events where processed_at is not null
                    order by processed_at desc limit 1";
        Ok(on!(self, |conn| sqlx::query_scalar(text).fetch_one(conn).await)?)
    }

    /// Whether an event has been processed.
    pub async fn is_processed(&mut self, svix_id: &str) -> anyhow::Result<bool> {
        let text = "select processed_at is not null from usher_events where svix_id = $1";
        Ok(on!(self, |conn| sqlx::query_scalar(text)
            .bind(svix_id)
            .fetch_one(conn)
            .await)?)
    }

    /// Locks an organization's row in a transaction that stays open until `release`. Postgres only.
    pub async fn hold_organization(&mut self, id: Uuid) -> anyhow::Result<()> {
        let Self::Postgres(conn) = self else {
            bail!("SQLite locks no single row");
        };
        sqlx::query("begin").execute(&mut *conn).await?;
        let text = "select id from organizations where id = $1 for update";
        sqlx::query(text).bind(id).fetch_one(conn).await?;
        Ok(())
    }

    /// Ends the open transaction.
    pub async fn release(&mut self) -> anyhow::Result<()> {
        on!(self, |conn| sqlx::query("commit").execute(conn).await.map(drop))?;
        Ok(())
    }

    /// Makes the table for the yardstick.
    pub async fn create_yardstick(&mut self) -> anyhow::Result<()> {
        let text = "create table yardstick (id text primary key, payload text not null)";
        on!(self, |conn| sqlx::query(text).execute(conn).await.map(drop))?;
        Ok(())
    }

    /// One row in a transaction of its own.
    pub async fn insert_yardstick(&mut self, number: usize, payload: &str) -> anyhow::Result<()> {
        let text = "insert into yardstick (id, payload) values ($1, $2)";
        on!(self, |conn| sqlx::query(text)
            .bind(webhooks::svix_id(number))
            .bind(payload)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }
}
