//! Names what a migration waits for: the table, and the process of the server that holds its lock.

use std::pin::pin;
use std::time::Duration;

use sqlx::PgPool;

use super::MigrationError;
use crate::store::adopt;

/// The name of the connections that migrate, by which they are found.
pub(super) const MIGRATOR: &str = "usher migrate";
/// Several looks within the time that a statement waits for a lock.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A lock that a migration waits for.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct HeldLock {
    /// The table's name, if it is known.
    table: Option<String>,
    /// The process that holds it.
    pid: i32,
    /// Its `application_name`.
    application: Option<String>,
}

impl std::fmt::Display for HeldLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.table {
            Some(table) => write!(f, "the table {table} is locked by the server's process {}", self.pid)?,
            None => write!(f, "a lock is held by the server's process {}", self.pid)?,
        }
        match self.application.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// Runs a migration, and says which locks it waits for. If it fails because of one, the error names it.
pub(super) async fn watch<T>(
    pool: &PgPool,
    migration: impl Future<Output = Result<T, MigrationError>>,
) -> Result<T, MigrationError> {
    let mut migration = pin!(migration);
    let mut last: Option<HeldLock> = None;
    loop {
        if let Ok(outcome) = tokio::time::timeout(LOOK_INTERVAL, &mut migration).await {
            return outcome.map_err(|error| match last {
                Some(held) if error.sql().is_some_and(adopt::gave_way) => MigrationError::Locked(held),
                _ => error,
            });
        }
        // What can't be seen now may be seen the next time.
        if let Ok(Some(held)) = held_lock(pool).await
            && last.as_ref() != Some(&held)
        {
            tracing::info!("{held}; waiting for the end of its transaction");
            last = Some(held);
        }
    }
}

/// Which lock a migration of this role waits for, now. Who waits for a row holds a lock on its place in the table.
async fn held_lock(pool: &PgPool) -> sqlx::Result<Option<HeldLock>> {
    sqlx::query_as(
        "select l.relation::regclass::text as \"table\", holder.pid, h.application_name as application
         from pg_stat_activity w
         join pg_locks l on l.pid = w.pid and (not l.granted or l.locktype = 'tuple')
         cross join lateral unnest(pg_blocking_pids(w.pid)) as holder(pid)
         left join pg_stat_activity h on h.pid = holder.pid
         where w.application_name = $1 and w.datname = current_database() and w.usename = current_user
         order by l.relation nulls last limit 1",
    )
    .bind(MIGRATOR)
    .fetch_optional(pool)
    .await
}
