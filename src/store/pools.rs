//! The connections: how they are opened, what is asked of them before they are used again, and which are not.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{ACQUIRE_TIMEOUT, ANSWER_TIMEOUT, Dialect, Result, no_answer};
use usher_base::private;

/// What holds on every connection of a pool. After 15 seconds Postgres gives up a transaction whose client says nothing,
/// and with it the locks that it holds. The app may hold one for as long as it likes: no statement waits for it longer
/// than it takes to find a deadlock, which Postgres looks for after a second. What usher asks for is found by key, mostly
/// in memory or on disks without arms: the default price of a page that is not the next one makes the planner read whole
/// tables instead, as long as they are small.
const SESSION: &str = "set idle_in_transaction_session_timeout = '15s'; set lock_timeout = '1500ms'; \
     set random_page_cost = 1.1";
/// usher's statements are written for this level; the database, or the role, may have another one as its default.
pub(super) const ISOLATION: &str = "set default_transaction_isolation = 'read committed'";
/// How long SQLite waits for another program's write. An error would end apalis's workers; what must be answered earlier
/// has limits of its own.
const BUSY_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a new file's change to WAL is waited for.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one try at it waits. Two processes that change a new file keep each other from it until one lets go.
const OPEN_TRY: Duration = Duration::from_millis(100);
/// A Postgres connection that rested for longer is asked whether it is still there before it is used. A server is not back
/// from a restart so soon.
const RESTED: Duration = Duration::from_millis(100);

/// Who works on the database. On Postgres each has connections of its own, so that those who wait for somebody's lock, or
/// are many, keep nobody else from it; on SQLite all share one writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Taking in what Clerk tells.
    Intake,
    /// The API's requests, and commands.
    Requests,
    /// The workers: fetching jobs, doing them, acknowledging them.
    Jobs,
    /// Heartbeat, health and metrics.
    Health,
}

impl Door {
    /// Every door.
    pub const ALL: [Self; 4] = [Self::Intake, Self::Requests, Self::Jobs, Self::Health];

    /// How many connections it has at most. There is one more in all, which listens.
    #[must_use]
    pub const fn connections(self) -> u32 {
        match self {
            // As many as groups that are stored at once.
            Self::Intake | Self::Health => 3,
            Self::Requests => 5,
            Self::Jobs => 8,
        }
    }

    pub(super) const fn pool_name(self) -> &'static str {
        match self {
            Self::Intake => "postgres_intake",
            Self::Requests => "postgres_requests",
            Self::Jobs => "postgres_jobs",
            Self::Health => "postgres_health",
        }
    }
}

/// Which Postgres connections are not used again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Renewal {
    /// Those that were opened before this.
    pub since: Option<Instant>,
    /// Whether the server took no writes when it was last asked.
    pub is_read_only: bool,
}

/// The pools of all doors; on SQLite they are one and the same.
#[derive(Debug, Clone)]
pub(super) struct Doors([Pool; 4]);

impl Doors {
    /// Opens them.
    pub(super) async fn open(
        dialect: Dialect,
        url: &str,
        lost: &watch::Sender<()>,
        renew: &watch::Sender<Renewal>,
    ) -> Result<Self> {
        match dialect {
            Dialect::Postgres => {
                let open = |door: Door| open_postgres(url, door.connections(), lost.clone(), renew.subscribe());
                let [intake, requests, jobs, health] = Door::ALL.map(open);
                Ok(Self([intake?, requests?, jobs?, health?].map(Pool::Postgres)))
            }
            Dialect::Sqlite => {
                let pool = open_sqlite(url).await?;
                Ok(Self(Door::ALL.map(|_| pool.clone())))
            }
        }
    }

    pub(super) fn get(&self, door: Door) -> &Pool {
        &self.0[door as usize]
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Pool {
    Postgres(PgPool),
    /// One connection writes, so that writers queue fairly in this process instead of polling for SQLite's lock;
    /// the others read.
    Sqlite {
        writer: SqlitePool,
        reader: SqlitePool,
    },
}

fn open_postgres(
    url: &str,
    connections: u32,
    lost: watch::Sender<()>,
    renew: watch::Receiver<Renewal>,
) -> Result<PgPool> {
    let options: PgConnectOptions = url.parse()?;
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|conn, _| {
            Box::pin(async move {
                conn.execute(SESSION).await?;
                conn.execute(ISOLATION).await.map(drop)
            })
        })
        .test_before_acquire(false)
        .before_acquire(move |connection, about| {
            let is_new = renew.borrow().since.is_none_or(|since| about.age < since.elapsed());
            Box::pin(async move {
                Ok(is_new && (about.idle_for <= RESTED || connection.ping().await.is_ok()))
            })
        })
        // sqlx would ask the same without a limit: a lost connection would keep its place in the pool for ever.
        .after_release(move |connection, _| {
            let lost = lost.clone();
            Box::pin(async move {
                let Ok(left) = tokio::time::timeout(ANSWER_TIMEOUT, leave_any_transaction(connection)).await else {
                    lost.send_replace(());
                    return Err(no_answer());
                };
                left.map(|()| true)
            })
        })
        .connect_lazy_with(options.application_name("usher")))
}

/// A `begin` that is dropped while it waits leaves its connection in a transaction that sqlx 0.9.0 does not know of
/// (launchbadge/sqlx#4393): its locks would stay, and the next user's writes would be in it. The leading `begin` keeps
/// the server from warning that there is nothing to roll back; the setting, which the rollback takes back, from warning
/// that there is a transaction already. In a failed transaction it is an error, and the connection is closed.
async fn leave_any_transaction(connection: &mut PgConnection) -> sqlx::Result<()> {
    connection
        .execute("set client_min_messages = error; begin; rollback")
        .await
        .map(drop)
}

async fn open_sqlite(url: &str) -> Result<Pool> {
    let options: SqliteConnectOptions = url.parse()?;
    make_file(options.get_filename()).map_err(sqlx::Error::Io)?;
    // The readers wait for less: a writer keeps them out only while the file is opened or recovered.
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(OPEN_TRY)
        // A new file's: of a usual event 4 KB would hold one, and waste the rest.
        .page_size(8192)
        // A group's rows come over at once, not in turns between two threads.
        .row_buffer_size(256);
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(BUSY_TIMEOUT)
        .after_connect(|conn, _| Box::pin(async move { wait_for_others(conn).await }))
        // There is nothing between us and a file that could be lost.
        .test_before_acquire(false)
        .before_acquire(is_outside_of_transactions);
    let since = Instant::now();
    let writer = loop {
        match writer.clone().connect_with(options.clone()).await {
            // SQLite's own patience does not cover the change of a new file to WAL, which another process is about to make.
            Err(error) if is_busy(&error) && since.elapsed() < OPEN_TIMEOUT => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            opened => break opened?,
        }
    };
    let reader = SqlitePoolOptions::new()
        .max_connections(4)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(is_outside_of_transactions)
        .connect_lazy_with(options.busy_timeout(OPEN_TIMEOUT).pragma("query_only", "on"));
    Ok(Pool::Sqlite { writer, reader })
}

/// From here on another program's write is waited for.
async fn wait_for_others(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    let text = format!("pragma busy_timeout = {}", BUSY_TIMEOUT.as_millis());
    conn.execute(AssertSqlSafe(text)).await.map(drop)
}

/// SQLite would make the file for everybody to read. Those that it puts beside it get the file's own mode.
fn make_file(path: &Path) -> std::io::Result<()> {
    let problem = |error: std::io::Error| {
        let sentence = format!("{} can't be made: {error}", path.display());
        std::io::Error::new(error.kind(), sentence)
    };
    if let Some(folder) = path.parent() {
        private::create_folder(folder).map_err(problem)?;
    }
    private::create_if_missing(path).map_err(problem)
}

/// Another program has the file locked, for longer than this was to wait.
pub(super) fn busy() -> sqlx::Error {
    let why = std::io::Error::new(std::io::ErrorKind::ResourceBusy, "another transaction has it locked");
    sqlx::Error::Io(why)
}

/// Another process has the file locked.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    if matches!(error, sqlx::Error::Io(why) if why.kind() == std::io::ErrorKind::ResourceBusy) {
        return true;
    }
    let code = error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// SQLite ends a transaction by itself where the disk is full or broken. sqlx goes on believing in it, and could never
/// begin another one on this connection: it is replaced by a new one.
fn is_outside_of_transactions(
    conn: &mut SqliteConnection,
    _: PoolConnectionMetadata,
) -> BoxFuture<'_, sqlx::Result<bool>> {
    Box::pin(async move { Ok(!conn.is_in_transaction()) })
}

/// A connection on which some texts make one transaction, its beginning and its end among them. Until it is told that
/// all of them are done, a transaction may be open that sqlx does not know of: then it is closed, not used again.
pub(super) struct PendingWrite {
    connection: PoolConnection<Sqlite>,
    is_settled: bool,
}

impl PendingWrite {
    pub(super) fn new(connection: PoolConnection<Sqlite>) -> Self {
        Self {
            connection,
            is_settled: false,
        }
    }

    pub(super) fn get(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// The transaction has ended, and well.
    pub(super) fn settle(mut self) {
        self.is_settled = true;
    }
}

impl Drop for PendingWrite {
    fn drop(&mut self) {
        if !self.is_settled {
            self.connection.close_on_drop();
        }
    }
}
