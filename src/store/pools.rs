//! The connections: how they are opened, what is asked of them before they are used again, and which are not.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{ACQUIRE_TIMEOUT, ANSWER_TIMEOUT, Result, no_answer};

/// After 15 seconds Postgres gives up a transaction whose client says nothing, and with it the locks that it holds. What
/// usher asks for is found by key, mostly in memory or on disks without arms: the default price of a page that is not the
/// next one makes the planner read whole tables instead, as long as they are small.
const SESSION: &str = "set idle_in_transaction_session_timeout = '15s'; set random_page_cost = 1.1";
/// How long SQLite waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A Postgres connection that rested for longer is asked whether it is still there before it is used. A server is not back
/// from a restart so soon.
const RESTED: Duration = Duration::from_millis(100);

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

pub(super) fn open_postgres(
    url: &str,
    lost: watch::Sender<()>,
    renew: watch::Receiver<Option<Instant>>,
) -> Result<PgPool> {
    let options: PgConnectOptions = url.parse()?;
    Ok(PgPoolOptions::new()
        .max_connections(10)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|conn, _| Box::pin(async move { conn.execute(SESSION).await.map(drop) }))
        .test_before_acquire(false)
        .before_acquire(move |connection, about| {
            let is_new = renew.borrow().is_none_or(|since| about.age < since.elapsed());
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
/// the server from warning that there is nothing to roll back; in a failed transaction it is an error, and the
/// connection is closed.
async fn leave_any_transaction(connection: &mut PgConnection) -> sqlx::Result<()> {
    connection.execute("begin; rollback").await.map(drop)
}

pub(super) async fn open_sqlite(url: &str) -> Result<Pool> {
    let options: SqliteConnectOptions = url.parse()?;
    if let Some(folder) = options.get_filename().parent() {
        std::fs::create_dir_all(folder).map_err(sqlx::Error::Io)?;
    }
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // A new file's: of a usual event 4 KB would hold one, and waste the rest.
        .page_size(8192)
        // A group's rows come over at once, not in turns between two threads.
        .row_buffer_size(256);
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // There is nothing between us and a file that could be lost.
        .test_before_acquire(false)
        .before_acquire(is_outside_of_transactions);
    let since = Instant::now();
    let writer = loop {
        match writer.clone().connect_with(options.clone()).await {
            // SQLite's own patience does not cover the change of a new file to WAL, which another process is about to make.
            Err(error) if is_busy(&error) && since.elapsed() < BUSY_TIMEOUT => {
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
        .connect_lazy_with(options.pragma("query_only", "on"));
    Ok(Pool::Sqlite { writer, reader })
}

/// Another process has the file locked.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
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
pub(super) struct Unsettled {
    connection: PoolConnection<Sqlite>,
    is_settled: bool,
}

impl Unsettled {
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

impl Drop for Unsettled {
    fn drop(&mut self) {
        if !self.is_settled {
            self.connection.close_on_drop();
        }
    }
}
