//! Both databases behind one API. A [`Tx`] method holds one SQL text that Postgres and SQLite both accept; where that
//! is not possible, the method matches on the connection and says why.
//!
//! Every transaction takes its locks in one order: idempotency key; people by key; invites by id; memberships, with
//! their organizations and projects; deliveries and jobs; the day's mail counts last.

mod address;
mod adopt;
mod app_tables;
mod audit;
mod catalog;
mod circuit_breaker;
mod deliveries;
mod ended_jobs;
mod error;
mod history;
mod idempotency;
mod inbox;
mod invites;
mod jobs;
mod mail_counts;
mod migrate;
mod outgoing;
mod pauses;
mod people;
mod pools;
pub mod queue;
mod remove;
mod retention;
mod retry;
mod rows;
mod schedules;
mod sessions;
mod settings;
mod stats;
mod suppressions;
mod targets;
mod transfer;
mod tx;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::join_all;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::Clock;
use crate::names::named;
use crate::telemetry;
pub use address::check_address;
pub use app_tables::AppRefusal;
pub use audit::{AuditDoor, AuditView, NewAudit};
pub use catalog::{AppShape, Difference};
pub use circuit_breaker::OpenCircuit;
pub use deliveries::{DeliveryKind, DeliveryNote, DeliveryStatus, DeliveryView, MailContext, NewDelivery, QueuedMail};
pub use ended_jobs::{EndedJobs, MinuteOfJobs, minute_of};
pub use error::StoreError;
pub(crate) use error::log_busy;
use error::{code_of, no_answer, overtaken, unusable_address};
use history::History;
pub use history::HistoryEntry;
pub use idempotency::{IdempotencyState, KeptAnswer};
pub use inbox::{Event, EventFilter, EventKey, EventState, EventView, Finished, NewEvent};
pub use invites::{
    InviteCandidate, InviteView, InviterAt, NewInvite, OpenInvite, Refresh, Remindable, ReminderPlan, Unplanned,
};
pub use jobs::{FailedAttempt, JobCount, JobFilter, JobState, JobView, NewFailure};
pub use mail_counts::{CountScope, MailCount, MailDemand};
pub use migrate::{MigrationError, Planned, Validation};
pub use outgoing::{
    EndpointRow, EventDeliveryFilter, EventDeliveryKey, EventDeliveryNote, EventDeliveryStatus, EventDeliveryView,
    EventTarget, EventType, FeedFilter, FeedRow, Numbered, QueuedEvent, Subject, Unnumbered,
};
pub use pauses::PausedQueue;
pub use people::{Address, NewAdmin, Person, Profile};
pub(crate) use pools::Pool;
pub use pools::{Connections, PoolName};
use pools::{PendingWrite, Pools, Renewal, busy, is_busy};
pub use queue::{Queue, Wake};
pub use retry::Conflict;
pub use schedules::{DueTick, ScheduleRow};
pub use sessions::SessionStart;
pub use settings::{Identities, Rules};
pub use stats::{HeldJobs, PoolStats};
pub use targets::{Grant, Member, MemberPage, MemberPerson, Membership, MembershipView, Put, PutRefusal, TargetInfo};
pub use transfer::MoveError;
pub use tx::Tx;
pub(crate) use tx::{Conn, on_conn};

/// How long a request waits for a connection before it fails with "database unavailable".
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of every other wait for the database. The network may lose a connection silently; without a timeout, the
/// wait for its answer would never end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a test write waits for SQLite's writer.
const WRITER_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

named! {
    /// Whose tables organizations, projects and members are in. On SQLite they are always usher's.
    Tables("kind of tables") {
        /// usher's own, on Postgres in the schema `usher`.
        Own = "own",
        /// The app's, in a schema of its own; all else is in the schema `usher`, too.
        Shared = "shared",
    }
}

#[expect(clippy::derivable_impls, reason = "`named!` declares the enum")]
impl Default for Tables {
    fn default() -> Self {
        Self::Own
    }
}

/// In which schemas of Postgres the tables are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    pub tables: Tables,
    /// The schema of the app's tables, with [`Tables::Shared`].
    pub app_schema: Option<String>,
}

impl Layout {
    #[must_use]
    pub fn shared(app_schema: impl Into<String>) -> Self {
        Self {
            tables: Tables::Shared,
            app_schema: Some(app_schema.into()),
        }
    }

    /// The statement that every connection begins with. The app's schema comes first: its triggers run in usher's sessions,
    /// too, and must find there what they find in the app's. That is why usher's tables have names of their own.
    fn search_path(&self) -> String {
        match &self.app_schema {
            None => "set search_path = usher".to_owned(),
            Some(schema) => format!("set search_path = {}, usher", quoted(schema)),
        }
    }
}

/// A name as SQL writes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[derive(Debug, Clone)]
pub struct Store {
    /// The pool of `pool_name`.
    pub(crate) pool: Pool,
    pub(crate) wake: Wake,
    pub(crate) clock: Clock,
    pools: Pools,
    pool_name: PoolName,
    /// A lock timeout that is shorter than the connection's default.
    lock_wait: Option<Duration>,
    /// Permits for requests that wait longer for a lock.
    long_waits: Arc<Semaphore>,
    /// A semaphore that limits the transactions of one kind of caller, and how many permits each takes.
    share: Option<(Arc<Semaphore>, u32)>,
    /// The migrations that this version knows.
    migrations: Arc<Migrator>,
    lost: watch::Sender<()>,
    renew: watch::Sender<Renewal>,
    /// The last test write failed: the disk is full, say.
    write_failed: Arc<AtomicBool>,
    layout: Layout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Postgres 13 or newer.
    Postgres,
    Sqlite,
}

impl Store {
    /// Opens the database at `url`. The scheme chooses the dialect: `postgres://…` or `sqlite://path`.
    ///
    /// # Errors
    /// When the address can't be parsed or a SQLite file can't be opened. An unavailable Postgres is no error here:
    /// connections are opened when needed.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        Self::open_with(url, &Layout::default(), clock).await
    }

    /// As [`Store::open`], for tables that may be shared with the app.
    ///
    /// # Errors
    /// As there.
    pub async fn open_with(url: &str, layout: &Layout, clock: Clock) -> Result<Self> {
        Self::open_sized(url, layout, Connections::default(), clock).await
    }

    /// As [`Store::open_with`], with another number of connections.
    ///
    /// # Errors
    /// As there.
    pub async fn open_sized(url: &str, layout: &Layout, connections: Connections, clock: Clock) -> Result<Self> {
        let (lost, renew) = (watch::Sender::new(()), watch::Sender::new(Renewal::default()));
        check_address(url).map_err(unusable_address)?;
        let dialect = Dialect::of(url).ok_or_else(|| unusable_address("is of no database".to_owned()))?;
        let pools = Pools::open(dialect, url, layout, connections, &lost, &renew).await?;
        Ok(Self {
            pool: pools.get(PoolName::Requests).clone(),
            wake: Wake::default(),
            clock,
            pools,
            layout: layout.clone(),
            pool_name: PoolName::Requests,
            lock_wait: None,
            long_waits: Arc::new(Semaphore::new(retry::MAX_LONG_WAITS)),
            share: None,
            migrations: Arc::new(migrate::migrator(dialect)),
            lost,
            renew,
            write_failed: Arc::default(),
        })
    }

    /// The same store, using another pool.
    #[must_use]
    pub fn with_pool(&self, name: PoolName) -> Self {
        Self {
            pool: self.pools.get(name).clone(),
            pool_name: name,
            ..self.clone()
        }
    }

    /// The same store, whose transactions wait for `weight` permits of this semaphore.
    pub(crate) fn with_share(&self, share: Arc<Semaphore>, weight: u32) -> Self {
        Self {
            share: Some((share, weight)),
            ..self.clone()
        }
    }

    /// The same store, with a lock timeout for its transactions.
    pub(crate) fn with_lock_wait(&self, limit: Duration) -> Self {
        Self {
            lock_wait: Some(limit),
            ..self.clone()
        }
    }

    /// Whether the file of a SQLite address exists. Always true for a server, which is not contacted here.
    ///
    /// # Errors
    /// When the address can't be parsed.
    pub fn file_exists(url: &str) -> Result<bool> {
        if Dialect::of(url) != Some(Dialect::Sqlite) {
            return Ok(true);
        }
        let options: SqliteConnectOptions = url.parse()?;
        Ok(options.get_filename().exists())
    }

    /// Tries to open the connections that are needed first, while the rest of the startup goes on.
    pub async fn warm_up(&self) {
        let first = [PoolName::Requests, PoolName::Jobs, PoolName::Jobs, PoolName::Health];
        let connections = first.iter().filter_map(|&name| match self.pools.get(name) {
            Pool::Postgres(pool) => Some(pool.acquire()),
            Pool::Sqlite { .. } => None,
        });
        join_all(connections).await;
    }

    /// Notifies when a connection turns out to be lost: other waits for an answer may hang as well.
    #[must_use]
    pub fn losses(&self) -> watch::Receiver<()> {
        self.lost.subscribe()
    }

    /// Runs `work` with a timeout. When no answer comes in time, the connection is treated as lost. A SQLite file has
    /// no network that could lose anything: another program holds its lock, so this logs it and keeps waiting.
    ///
    /// # Errors
    /// A temporary [`StoreError`] after the timeout.
    pub async fn with_timeout<T>(&self, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        if let Ok(outcome) = tokio::time::timeout(limit, &mut work).await {
            return outcome;
        }
        if self.dialect() == Dialect::Sqlite {
            log_busy(&busy().into());
            return work.await;
        }
        self.lost.send_replace(());
        Err(no_answer().into())
    }

    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// A new UUIDv7.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.clock.new_id()
    }

    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.pool {
            Pool::Postgres(_) => Dialect::Postgres,
            Pool::Sqlite { .. } => Dialect::Sqlite,
        }
    }

    /// Begins a transaction that writes. On SQLite it takes the write lock at once, so upgrading a read lock can't fail
    /// later.
    pub async fn begin(&self) -> Result<Tx> {
        // Boxed, here and below: the future has room for a whole TLS handshake and would otherwise be part of every
        // caller's future.
        let conn = match (&self.pool, self.lock_wait) {
            (Pool::Postgres(pool), None) => Conn::Postgres(Box::pin(pool.begin()).await?),
            (Pool::Postgres(pool), Some(wait)) => {
                let begin = format!("begin{}", lock_timeout(wait));
                Conn::Postgres(Box::pin(pool.begin_with(AssertSqlSafe(begin))).await?)
            }
            (Pool::Sqlite { writer, .. }, _) => Conn::Sqlite(self.begin_on_sqlite(writer).await?),
        };
        Ok(self.tx(conn))
    }

    /// Jobs wait as long as another program has the file locked; requests fail after a timeout.
    async fn begin_on_sqlite(&self, writer: &SqlitePool) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>> {
        let begin = Box::pin(writer.begin_with("begin immediate"));
        if self.pool_name == PoolName::Jobs {
            return Ok(begin.await?);
        }
        let begun = tokio::time::timeout(ACQUIRE_TIMEOUT, begin).await;
        Ok(begun.unwrap_or_else(|_| Err(busy()))?)
    }

    /// Begins a transaction that only reads.
    pub async fn read(&self) -> Result<Tx> {
        let conn = match &self.pool {
            Pool::Postgres(pool) => {
                let wait = self.lock_wait.map(lock_timeout).unwrap_or_default();
                let begin = AssertSqlSafe(format!("begin read only{wait}"));
                Conn::Postgres(Box::pin(pool.begin_with(begin)).await?)
            }
            Pool::Sqlite { reader, .. } => Conn::Sqlite(Box::pin(reader.begin()).await?),
        };
        Ok(self.tx(conn))
    }

    fn tx(&self, conn: Conn) -> Tx {
        Tx {
            conn,
            wake: self.wake.clone(),
            clock: self.clock.clone(),
            enqueued: Vec::new(),
            history: History::with_correlation_id(telemetry::correlation_id()),
            outgoing: Vec::new(),
            is_shared: self.layout.tables == Tables::Shared,
            numbered: false,
        }
    }

    /// Whether the database answers and, on Postgres, accepts writes.
    pub async fn ping(&self) -> Result<()> {
        match &self.pool {
            Pool::Postgres(pool) => self.with_timeout(ANSWER_TIMEOUT, self.ask_for_writes(pool)).await,
            Pool::Sqlite { reader, .. } => Ok(sqlx::query("select 1").execute(reader).await.map(drop)?),
        }
    }

    /// Whether the database accepts writes. On SQLite a full disk shows only on a write, so this writes back
    /// `user_version`, a number that is otherwise unused; SQLite writes it even when it is unchanged. Waiting for
    /// another write is no failure, unless the last test write failed: beside a full disk and many who try, one may wait
    /// for long.
    pub async fn takes_writes(&self) -> Result<()> {
        self.ping().await?;
        let Pool::Sqlite { writer, .. } = &self.pool else {
            return Ok(());
        };
        let write = async {
            let number: i64 = sqlx::query_scalar("pragma user_version").fetch_one(writer).await?;
            let text = AssertSqlSafe(format!("pragma user_version = {number}"));
            sqlx::query(text).execute(writer).await
        };
        match tokio::time::timeout(WRITER_TIMEOUT, write).await {
            Ok(Ok(_)) => {
                self.write_failed.store(false, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(error)) if !is_busy(&error) => {
                self.write_failed.store(true, Ordering::Relaxed);
                Err(error.into())
            }
            _ if self.write_failed.load(Ordering::Relaxed) => Err(sqlx::Error::Io(std::io::Error::other(
                "the last write failed, and the next one still waits",
            ))
            .into()),
            _ => Ok(()),
        }
    }

    /// A read-only server is of no use: a standby that is not promoted yet, or a server that was made read-only. The
    /// latter keeps open sessions read-only, so they are not used again.
    async fn ask_for_writes(&self, pool: &PgPool) -> Result<()> {
        let read_only: String = sqlx::query_scalar("select current_setting('transaction_read_only')")
            .fetch_one(pool)
            .await?;
        let is_read_only = read_only != "off";
        // Also after the server accepts writes again: other pools may have opened sessions in between.
        if is_read_only || self.renew.borrow().is_read_only {
            let since = Some(Instant::now());
            self.renew.send_replace(Renewal { since, is_read_only });
        }
        if !is_read_only {
            return Ok(());
        }
        let why = std::io::Error::new(std::io::ErrorKind::ReadOnlyFilesystem, "it can only be read");
        Err(sqlx::Error::Io(why).into())
    }

    /// Closes all connections and waits for those in use, with a timeout, because one may be lost.
    pub async fn close(&self) {
        let close = join_all(PoolName::ALL.map(|name| async move {
            match self.pools.get(name) {
                Pool::Postgres(pool) => pool.close().await,
                Pool::Sqlite { writer, reader } => {
                    reader.close().await;
                    writer.close().await;
                }
            }
        }));
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, close).await;
    }
}

impl Dialect {
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Some(Self::Postgres)
        } else if url.starts_with("sqlite:") {
            Some(Self::Sqlite)
        } else {
            None
        }
    }
}

/// Sent after `begin` in the same round trip.
fn lock_timeout(wait: Duration) -> String {
    format!("; set local lock_timeout = {}", wait.as_millis())
}
