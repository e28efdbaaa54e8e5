//! The connection pools: how connections are opened, checked before use, and discarded.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::watch;
use tokio::time::Instant;

use super::address::postgres as postgres_address;
use super::error::unusable_address;
use super::{ACQUIRE_TIMEOUT, ANSWER_TIMEOUT, Dialect, Layout, Result, no_answer};
use usher_base::private;

/// The settings of every connection of a pool. After 15 seconds Postgres ends a transaction whose client is idle, and
/// releases its locks. The app may hold a lock for any time, so each statement has a lock timeout: just longer than
/// Postgres needs to detect a deadlock, which takes one second. usher finds its rows by key, mostly in memory or on
/// SSDs: with the default `random_page_cost`, made for rotating disks, the planner reads small tables as a whole.
const SESSION: &str = "set idle_in_transaction_session_timeout = '15s'; set lock_timeout = '1500ms'; \
     set random_page_cost = 1.1";
/// usher's statements need this isolation level; the database or the role may have another default.
pub(super) const ISOLATION: &str = "set default_transaction_isolation = 'read committed'";
/// How long SQLite waits for another program's write. An error would end apalis's workers; requests have shorter
/// timeouts of their own.
const BUSY_TIMEOUT: Duration = Duration::from_secs(300);
/// How long to wait for a new file's change to WAL.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one attempt at it waits. Two processes that change a new file block each other until one of them gives up.
const OPEN_TRY: Duration = Duration::from_millis(100);
/// A Postgres connection that was idle for longer is pinged before it is used. A server's restart takes longer than
/// this.
const RESTED: Duration = Duration::from_millis(100);

/// A pool, by what its connections are used for. On Postgres each use has its own, so that many requests, or requests
/// that wait for a lock, can't block the others; on SQLite all share one writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolName {
    /// Storing events from Clerk.
    Intake,
    /// The API's requests, and commands.
    Requests,
    /// The workers: fetching, running and acknowledging jobs.
    Jobs,
    /// Heartbeat, health and metrics.
    Health,
}

impl PoolName {
    pub const ALL: [Self; 4] = [Self::Intake, Self::Requests, Self::Jobs, Self::Health];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Intake => "postgres_intake",
            Self::Requests => "postgres_requests",
            Self::Jobs => "postgres_jobs",
            Self::Health => "postgres_health",
        }
    }
}

/// How many connections to Postgres a process has at most. One of them listens for notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections(u32);

impl Default for Connections {
    fn default() -> Self {
        Self(20)
    }
}

impl Connections {
    /// With fewer, a pool would be too small for two at once.
    pub const LEAST: u32 = 8;
    pub const MOST: u32 = 1_000;

    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (Self::LEAST..=Self::MOST).contains(&number).then_some(Self(number))
    }

    /// A pool's maximum size.
    #[must_use]
    pub fn of(self, pool: PoolName) -> u32 {
        // By default 3, 3, 5 and 8. More than three are of no use to intake and health.
        let all = self.0 - 1;
        let (intake, health) = ((all / 6).clamp(1, 3), (all / 6).clamp(2, 3));
        let requests = (all / 4 + 1).max(2);
        match pool {
            PoolName::Intake => intake,
            PoolName::Health => health,
            PoolName::Requests => requests,
            PoolName::Jobs => all - intake - health - requests,
        }
    }
}

impl std::fmt::Display for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Which Postgres connections are not used again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Renewal {
    /// Those that were opened before this.
    pub since: Option<Instant>,
    /// Whether the server was read-only at the last check.
    pub is_read_only: bool,
}

/// The pools; on SQLite all are the same.
#[derive(Debug, Clone)]
pub(super) struct Pools([Pool; 4]);

impl Pools {
    pub(super) async fn open(
        dialect: Dialect,
        url: &str,
        layout: &Layout,
        connections: Connections,
        lost: &watch::Sender<()>,
        renew: &watch::Sender<Renewal>,
    ) -> Result<Self> {
        match dialect {
            Dialect::Postgres => {
                if postgres_address::asks_for_channel_binding(url) {
                    tracing::warn!(
                        "the database address asks for channel binding, which usher does not have; set sslmode=verify-full in its \
                         place, which verifies the server"
                    );
                }
                let open =
                    |name: PoolName| open_postgres(url, layout, connections.of(name), lost.clone(), renew.subscribe());
                let [intake, requests, jobs, health] = PoolName::ALL.map(open);
                Ok(Self([intake?, requests?, jobs?, health?].map(Pool::Postgres)))
            }
            Dialect::Sqlite => {
                let pool = open_sqlite(url).await?;
                Ok(Self(PoolName::ALL.map(|_| pool.clone())))
            }
        }
    }

    pub(super) fn get(&self, name: PoolName) -> &Pool {
        &self.0[name as usize]
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Pool {
    Postgres(PgPool),
    /// One connection writes, so that writers queue fairly in this process instead of polling for SQLite's lock; the
    /// others read.
    Sqlite {
        writer: SqlitePool,
        reader: SqlitePool,
    },
}

fn open_postgres(
    url: &str,
    layout: &Layout,
    connections: u32,
    lost: watch::Sender<()>,
    renew: watch::Receiver<Renewal>,
) -> Result<PgPool> {
    let options = postgres_address::read(url).map_err(unusable_address)?;
    let path = layout.search_path();
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |conn, _| {
            let path = path.clone();
            Box::pin(async move {
                conn.execute(SESSION).await?;
                conn.execute(AssertSqlSafe(path)).await?;
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
        // sqlx would do the same without a timeout: a lost connection would keep its place in the pool for ever.
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

/// A `begin` whose future is dropped leaves its connection in a transaction that sqlx 0.9.0 does not know of
/// (launchbadge/sqlx#4393): its locks would remain, and the next user's writes would be part of it. The leading `begin`
/// avoids the server's warning that there is no transaction to roll back. The setting, which the rollback resets,
/// avoids the warning that there is one already. In a failed transaction this is an error, and the connection is
/// closed.
async fn leave_any_transaction(connection: &mut PgConnection) -> sqlx::Result<()> {
    connection
        .execute("set client_min_messages = error; begin; rollback")
        .await
        .map(drop)
}

async fn open_sqlite(url: &str) -> Result<Pool> {
    let options: SqliteConnectOptions = url.parse()?;
    make_file(options.get_filename()).map_err(sqlx::Error::Io)?;
    // The readers wait for less: a writer blocks them only while the file is opened or recovered.
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(OPEN_TRY)
        // For a new file: a page of 4 KB would hold one usual event and waste the rest.
        .page_size(8192)
        // A batch's rows are transferred at once, not one by one between two threads.
        .row_buffer_size(256);
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(BUSY_TIMEOUT)
        .after_connect(|conn, _| Box::pin(async move { wait_for_others(conn).await }))
        // A connection to a file can't be lost.
        .test_before_acquire(false)
        .before_acquire(is_outside_of_transactions);
    let since = Instant::now();
    let writer = loop {
        match writer.clone().connect_with(options.clone()).await {
            // SQLite's busy timeout does not apply to the change of a new file to WAL, which another process may be
            // making.
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

/// From now on the connection waits for other programs' writes.
async fn wait_for_others(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    let text = format!("pragma busy_timeout = {}", BUSY_TIMEOUT.as_millis());
    conn.execute(AssertSqlSafe(text)).await.map(drop)
}

/// SQLite would create the file readable for all users. The files that SQLite adds to it get the same mode.
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

/// Another program held the file's lock until the timeout.
pub(super) fn busy() -> sqlx::Error {
    let why = std::io::Error::new(std::io::ErrorKind::ResourceBusy, "another transaction has it locked");
    sqlx::Error::Io(why)
}

/// Whether another process has locked the file.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    if matches!(error, sqlx::Error::Io(why) if why.kind() == std::io::ErrorKind::ResourceBusy) {
        return true;
    }
    let code = error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// SQLite rolls a transaction back on its own when the disk is full or broken. sqlx does not notice, and could never
/// begin another one on this connection: it has to be replaced.
fn is_outside_of_transactions(
    conn: &mut SqliteConnection,
    _: PoolConnectionMetadata,
) -> BoxFuture<'_, sqlx::Result<bool>> {
    Box::pin(async move { Ok(!conn.is_in_transaction()) })
}

/// A connection on which several SQL texts form one transaction, including its begin and commit. Until
/// [`Self::settle`], sqlx may not know of an open transaction; so the connection is closed when it is dropped.
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

    /// The transaction was committed.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_divided_among_the_pools_and_the_listener() {
        let pools = |number| PoolName::ALL.map(|pool| Connections::new(number).unwrap().of(pool));
        assert_eq!(pools(20), [3, 5, 8, 3], "intake, requests, jobs, health");
        assert_eq!(pools(8), [1, 2, 2, 2]);
        assert_eq!(pools(40), [3, 10, 23, 3]);
        for number in Connections::LEAST..200 {
            assert_eq!(pools(number).iter().sum::<u32>() + 1, number);
            assert!(pools(number)[1..].iter().all(|&size| size >= 2), "{number}");
        }
        assert_eq!([0, 7, 1_001].map(Connections::new), [None; 3]);
    }
}
