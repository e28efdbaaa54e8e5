//! Both databases behind one door. A [`Tx`] method holds one SQL text, written so that Postgres and SQLite both take
//! it; where that can't be, the method matches on the connection and says why.
//!
//! One order of locks for every transaction: idempotency key; people by their keys; invites by id; memberships, with
//! their targets; deliveries and jobs; the day's mail counts last.

mod address;
mod adopt;
mod circuit_breaker;
mod deliveries;
mod history;
mod idempotency;
mod inbox;
mod invites;
mod jobs;
mod levels;
mod mail_counts;
mod migrate;
mod people;
mod pools;
pub mod queue;
mod retention;
mod retry;
mod rows;
mod schedules;
mod sessions;
mod settings;
mod suppressions;
mod targets;

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
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
use crate::telemetry;
pub use address::check_address;
pub use circuit_breaker::OpenCircuit;
pub use deliveries::{DeliveryKind, DeliveryNote, DeliveryStatus, DeliveryView, MailContext, NewDelivery, QueuedMail};
pub use history::Happened;
use history::History;
pub use idempotency::{IdempotencyState, KeptAnswer};
pub use inbox::{Event, EventFilter, EventState, EventView, Finished, NewEvent};
pub use invites::{
    InviteCandidate, InviteFilter, InviteView, InviterAt, NewInvite, OpenInvite, Refresh, Remindable, ReminderPlan,
    Unplanned,
};
pub use jobs::{FailedAttempt, JobFilter, JobState, JobView, NewFailure};
pub use levels::PoolStats;
pub use mail_counts::{CountScope, MailCount, MailDemand};
pub use migrate::{MigrationError, Validation};
pub use people::{Address, Person, PersonRef, Profile};
pub use pools::Door;
pub(crate) use pools::Pool;
use pools::{Doors, PendingWrite, Renewal, busy, is_busy};
pub use queue::{Queue, Wake};
pub use retry::Conflict;
pub use schedules::DueTick;
pub use sessions::SessionStart;
pub use settings::{Identities, Rules};
pub use targets::{Grant, Member, Membership, Put, PutRefusal, TargetInfo};
use usher_base::Throttle;

/// How long a request waits for a connection before it is told that the store is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long anything else may wait for the database. The network may have lost a connection without a word; nothing that
/// waits for its answer would ever end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a try waits for its turn among SQLite's writers.
const TURN: Duration = Duration::from_secs(1);

/// The database could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("the database failed: {0}")]
pub struct StoreError(#[from] sqlx::Error);

impl StoreError {
    /// Whether the same request may succeed a little later: the database is away, restarting, full of connections, or
    /// two transactions met in the wrong order.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        Self::is_temporary_sql(&self.0)
    }

    pub(crate) fn is_temporary_sql(error: &sqlx::Error) -> bool {
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Primary codes: busy, locked, read-only, I/O, full, can't open. Or classes: connection, read-only after a
            // failover, credentials being changed, serialization and deadlock, resources, a lock not had, operator
            // intervention, system. What the database can't take is in none of them.
            error => {
                sqlite_code(error).is_some_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14))
                    || code_of(error).is_some_and(|code| {
                        ["08", "25006", "28", "40", "53", "55P03", "57", "58"]
                            .iter()
                            .any(|class| code.starts_with(class))
                    })
            }
        }
    }

    /// SQLite's file, or the disk that it is on, can be read and not be written. While usher runs that may pass; a start
    /// would wait for it in vain.
    pub(crate) fn is_read_only_file(error: &sqlx::Error) -> bool {
        matches!(error, sqlx::Error::Database(error)
            if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some()
                && error.code().and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == 8))
    }

    /// Whether the whole database is away, rather than this one statement having met another's lock.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.is_temporary() && !self.is_conflict() && !self.is_busy()
    }

    /// Whether a lock that somebody else holds was not had in time. That says nothing of the database, nor of its
    /// connections: only what needs what is locked has to wait.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        // Postgres: `lock_not_available`; `query_canceled`, by a limit that the database or the role sets.
        is_busy(&self.0) || code_of(&self.0).is_some_and(|code| matches!(&*code, "55P03" | "57014"))
    }

    /// The database's code for a value that it will never take, because it can't represent it or it is too large: the same
    /// fails again whenever it is repeated.
    #[must_use]
    pub fn refusal_code(&self) -> Option<String> {
        if matches!(self.0, sqlx::Error::Encode(_)) {
            return Some("encode".to_owned());
        }
        // Classes of Postgres: data exception, program limit exceeded.
        let by_postgres = code_of(&self.0).filter(|code| code.starts_with("22") || code.starts_with("54"));
        // Primary codes of SQLite: too big, wrong type.
        let by_sqlite = sqlite_code(&self.0).filter(|code| matches!(code & 0xff, 18 | 20));
        by_postgres
            .map(Cow::into_owned)
            .or_else(|| by_sqlite.map(|code| code.to_string()))
    }
}

/// The state that Postgres gave.
fn code_of(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    match error {
        sqlx::Error::Database(error) if error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() => {
            error.code()
        }
        _ => None,
    }
}

/// The code that SQLite gave.
fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    match error {
        sqlx::Error::Database(error) if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() => {
            error.code()?.parse().ok()
        }
        _ => None,
    }
}

impl StoreError {
    /// Another transaction holds a lock that is needed.
    pub(crate) fn busy() -> Self {
        busy().into()
    }
}

/// One line a minute: whoever asks meets the same lock again and again.
static BUSY: Throttle = Throttle::per_minute();

/// Says that something is locked, and that what needs it waits.
pub(crate) fn tell_busy(error: &StoreError) {
    if let Some(left_out) = BUSY.admit() {
        tracing::warn!(
            error = %error, left_out,
            "lock timeout: another transaction holds a lock; retrying later"
        );
    }
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A database, and the signal that wakes this process's workers.
#[derive(Debug, Clone)]
pub struct Store {
    /// Those of the door.
    pub(crate) pool: Pool,
    pub(crate) wake: Wake,
    pub(crate) clock: Clock,
    doors: Doors,
    door: Door,
    /// How long a transaction's statement may wait for a lock, where that is less than usual.
    lock_wait: Option<Duration>,
    /// Where requests wait for locks, a few at a time.
    bench: Arc<Semaphore>,
    /// What those who work on it for somebody share, and how much of it one takes.
    share: Option<(Arc<Semaphore>, u32)>,
    /// Those that this version knows.
    migrations: Arc<Migrator>,
    lost: watch::Sender<()>,
    renew: watch::Sender<Renewal>,
}

/// Which database a [`Store`] speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Postgres 13 or newer.
    Postgres,
    /// The embedded one.
    Sqlite,
}

/// A transaction. Dropped without [`Tx::commit`], it leaves nothing behind.
pub struct Tx {
    pub(crate) conn: Conn,
    wake: Wake,
    clock: Clock,
    enqueued: Vec<Queue>,
    history: History,
}

pub(crate) enum Conn {
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
}

/// Runs one body against whichever connection the transaction holds.
macro_rules! on_conn {
    ($tx:expr, |$conn:ident| $body:expr) => {
        match &mut $tx.conn {
            $crate::store::Conn::Postgres(tx) => {
                let $conn = &mut **tx;
                $body
            }
            $crate::store::Conn::Sqlite(tx) => {
                let $conn = &mut **tx;
                $body
            }
        }
    };
}
pub(crate) use on_conn;

impl Store {
    /// Opens the database that `url` names. The scheme chooses: `postgres://…` or `sqlite://path`.
    ///
    /// # Errors
    /// [`StoreError`] when the address can't be understood or a SQLite file can't be opened. A Postgres that is away is
    /// no error here: connections are made when needed.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        let (lost, renew) = (watch::Sender::new(()), watch::Sender::new(Renewal::default()));
        let unusable =
            |problem: String| StoreError(sqlx::Error::Configuration(format!("its address {problem}").into()));
        check_address(url).map_err(unusable)?;
        let dialect = Dialect::of(url).ok_or_else(|| unusable("is of no database".to_owned()))?;
        let doors = Doors::open(dialect, url, &lost, &renew).await?;
        Ok(Self {
            pool: doors.get(Door::Requests).clone(),
            wake: Wake::default(),
            clock,
            doors,
            door: Door::Requests,
            lock_wait: None,
            bench: Arc::new(Semaphore::new(retry::MAX_LONG_WAITS)),
            share: None,
            migrations: Arc::new(migrate::migrator(dialect)),
            lost,
            renew,
        })
    }

    /// The same store, by another door.
    #[must_use]
    pub fn at(&self, door: Door) -> Self {
        Self {
            pool: self.doors.get(door).clone(),
            door,
            ..self.clone()
        }
    }

    /// The same store, whose transactions wait until there is so much of the share free.
    pub(crate) fn with_share(&self, share: Arc<Semaphore>, weight: u32) -> Self {
        Self {
            share: Some((share, weight)),
            ..self.clone()
        }
    }

    /// The same store, whose transactions wait no longer than that for a lock.
    pub(crate) fn with_lock_wait(&self, limit: Duration) -> Self {
        Self {
            lock_wait: Some(limit),
            ..self.clone()
        }
    }

    /// Whether the file that a SQLite address names is there. A server is looked for when it is asked.
    ///
    /// # Errors
    /// [`StoreError`] when the address can't be understood.
    pub fn file_exists(url: &str) -> Result<bool> {
        if Dialect::of(url) != Some(Dialect::Sqlite) {
            return Ok(true);
        }
        let options: SqliteConnectOptions = url.parse()?;
        Ok(options.get_filename().exists())
    }

    /// Opens the connections that are wanted first, if it can: at a start there is other work meanwhile.
    pub async fn warm_up(&self) {
        let doors = [Door::Requests, Door::Jobs, Door::Jobs, Door::Health];
        let pools = doors.iter().filter_map(|&door| match self.doors.get(door) {
            Pool::Postgres(pool) => Some(pool.acquire()),
            Pool::Sqlite { .. } => None,
        });
        join_all(pools).await;
    }

    /// Tells whenever a connection turns out to be lost without a word: others that wait for an answer may wait in vain.
    #[must_use]
    pub fn losses(&self) -> watch::Receiver<()> {
        self.lost.subscribe()
    }

    /// Does it within a limit: where no answer comes, the connection is given up as lost. Between usher and a SQLite file
    /// is nothing that could be lost: where another program has it locked, that is told, and waited for.
    ///
    /// # Errors
    /// [`StoreError`], temporary if it took too long.
    pub async fn in_time<T>(&self, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        if let Ok(outcome) = tokio::time::timeout(limit, &mut work).await {
            return outcome;
        }
        if self.dialect() == Dialect::Sqlite {
            tell_busy(&busy().into());
            return work.await;
        }
        self.lost.send_replace(());
        Err(no_answer().into())
    }

    /// The time by the store's clock.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Which database this is.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.pool {
            Pool::Postgres(_) => Dialect::Postgres,
            Pool::Sqlite { .. } => Dialect::Sqlite,
        }
    }

    /// Begins a transaction that writes. On SQLite it takes the write lock up front: no failure on upgrading later.
    ///
    /// # Errors
    /// [`StoreError`] when the database is away.
    pub async fn begin(&self) -> Result<Tx> {
        // Boxed, here and below: the future has room for a whole TLS handshake, and is otherwise part of every caller's.
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

    /// Jobs wait as long as another program has the file locked; whoever waits for an answer is told after a while.
    async fn begin_on_sqlite(&self, writer: &SqlitePool) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>> {
        let begin = Box::pin(writer.begin_with("begin immediate"));
        if self.door == Door::Jobs {
            return Ok(begin.await?);
        }
        let begun = tokio::time::timeout(ACQUIRE_TIMEOUT, begin).await;
        Ok(begun.unwrap_or_else(|_| Err(busy()))?)
    }

    /// Begins a transaction that only reads.
    ///
    /// # Errors
    /// [`StoreError`] when the database is away.
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
            history: History::caused_by(telemetry::cause()),
        }
    }

    /// Whether the database answers and, on Postgres, may be written to.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    pub async fn ping(&self) -> Result<()> {
        match &self.pool {
            Pool::Postgres(pool) => self.in_time(ANSWER_TIMEOUT, self.ask_for_writes(pool)).await,
            Pool::Sqlite { reader, .. } => Ok(sqlx::query("select 1").execute(reader).await.map(drop)?),
        }
    }

    /// Whether the database takes what is written. On SQLite a full disk shows only when something is: here a number that
    /// nobody uses, and that is written even where it stays the same. InviteCandidate for another's write is no failure.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
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
        match tokio::time::timeout(TURN, write).await {
            Ok(Err(error)) if !is_busy(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A server that only reads is none to work with: a standby that has not taken over yet, or one that was told so. The
    /// latter keeps to it in sessions that are open, so they are not used again.
    async fn ask_for_writes(&self, pool: &PgPool) -> Result<()> {
        let read_only: String = sqlx::query_scalar("select current_setting('transaction_read_only')")
            .fetch_one(pool)
            .await?;
        let is_read_only = read_only != "off";
        // Also once it takes writes again: other doors may have opened sessions in between.
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

    /// A setting of the writing connection: a pragma's value on SQLite, `show` on Postgres.
    ///
    /// # Errors
    /// [`StoreError`] when there is no such setting.
    pub async fn setting(&self, name: &'static str) -> Result<String> {
        Ok(match &self.pool {
            Pool::Postgres(pool) => {
                sqlx::query_scalar("select current_setting($1)")
                    .bind(name)
                    .fetch_one(pool)
                    .await?
            }
            Pool::Sqlite { writer, .. } => {
                let text = AssertSqlSafe(format!("select cast({name} as text) from pragma_{name}"));
                sqlx::query_scalar(text).fetch_one(writer).await?
            }
        })
    }

    /// Closes all connections, waiting for those in use, but not for ever: one may be lost.
    pub async fn close(&self) {
        let close = join_all(Door::ALL.map(|door| async move {
            match self.doors.get(door) {
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
    /// The dialect that an address's scheme names.
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

impl Tx {
    /// Makes it true, keeps and counts what happened to invites, and wakes the workers of what was enqueued.
    ///
    /// # Errors
    /// [`StoreError`]; whether the transaction holds is then unknown, so callers repeat it and rely on its being
    /// idempotent.
    pub async fn commit(mut self) -> Result<()> {
        self.write_history().await?;
        match self.conn {
            Conn::Postgres(tx) => tx.commit().await?,
            Conn::Sqlite(tx) => tx.commit().await?,
        }
        for queue in self.enqueued {
            self.wake.signal(queue);
        }
        self.history.count();
        Ok(())
    }

    /// The time by the store's clock.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// A fresh id.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.clock.new_id()
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self.conn {
            Conn::Postgres(_) => Dialect::Postgres,
            Conn::Sqlite(_) => Dialect::Sqlite,
        }
    }
}

/// What follows a `begin` in the same round trip.
fn lock_timeout(wait: Duration) -> String {
    format!("; set local lock_timeout = {}", wait.as_millis())
}

/// What this transaction has read is out of date, and with what is there now it would end otherwise.
fn overtaken() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::Interrupted,
        "another transaction was first",
    ))
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}
