//! Errors of the database, and what follows from each.

use std::borrow::Cow;

use super::Conflict as _;
use super::pools::{busy, is_busy};
use usher_base::Throttle;

#[derive(Debug, thiserror::Error)]
#[error("the database failed: {0}")]
pub struct StoreError(#[from] pub(super) sqlx::Error);

impl StoreError {
    /// A value that can't be written as JSON.
    pub(crate) fn unwritable(error: serde_json::Error) -> Self {
        Self(sqlx::Error::Encode(error.into()))
    }

    pub(crate) fn busy() -> Self {
        busy().into()
    }

    /// Whether the same request may succeed later: the database is unavailable, restarting or out of connections, or
    /// two transactions conflicted.
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
            // SQLite primary codes: busy, locked, read-only, I/O, full, can't open. Postgres classes: connection,
            // read-only after a failover, credentials being changed, serialization failure and deadlock, resources,
            // lock not available, operator intervention, system. A value that the database can't represent is in none
            // of them.
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

    /// SQLite's file, or its disk, can be read but not written. That may pass while usher runs; at startup it is an
    /// error, because waiting would not help.
    pub(crate) fn is_read_only_file(error: &sqlx::Error) -> bool {
        matches!(error, sqlx::Error::Database(error)
            if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some()
                && error.code().and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == 8))
    }

    /// Whether the whole database is unavailable, not only this statement blocked by another transaction's lock.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.is_temporary() && !self.is_conflict() && !self.is_busy()
    }

    /// Whether this is a lock timeout: another transaction holds the lock. The database and its connections are fine;
    /// only the work that needs the locked rows has to wait.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        // Postgres: `lock_not_available`; `query_canceled`, from a timeout that the database or the role sets.
        is_busy(&self.0) || code_of(&self.0).is_some_and(|code| matches!(&*code, "55P03" | "57014"))
    }

    /// The database's code for a value that it can't represent or that is too large. Every retry would fail the same
    /// way.
    #[must_use]
    pub fn refusal_code(&self) -> Option<String> {
        if matches!(self.0, sqlx::Error::Encode(_)) {
            return Some("encode".to_owned());
        }
        // Postgres classes: data exception, program limit exceeded.
        let by_postgres = code_of(&self.0).filter(|code| code.starts_with("22") || code.starts_with("54"));
        // SQLite primary codes: too big, wrong type.
        let by_sqlite = sqlite_code(&self.0).filter(|code| matches!(code & 0xff, 18 | 20));
        by_postgres
            .map(Cow::into_owned)
            .or_else(|| by_sqlite.map(|code| code.to_string()))
    }
}

/// An address that can't be used; `problem` is the rest of the sentence.
pub(super) fn unusable_address(problem: String) -> StoreError {
    StoreError(sqlx::Error::Configuration(format!("its address {problem}").into()))
}

pub(super) fn code_of(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    match error {
        sqlx::Error::Database(error) if error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() => {
            error.code()
        }
        _ => None,
    }
}

fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    match error {
        sqlx::Error::Database(error) if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() => {
            error.code()?.parse().ok()
        }
        _ => None,
    }
}

/// At most one line a minute: every retry hits the same lock.
static BUSY: Throttle = Throttle::per_minute();

pub(crate) fn log_busy(error: &StoreError) {
    if let Some(left_out) = BUSY.admit() {
        tracing::warn!(
            error = %error, left_out,
            "lock timeout: another transaction holds a lock; retrying later"
        );
    }
}

/// The rows that this transaction read are out of date, so that it has to run again.
pub(super) fn overtaken() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::Interrupted,
        "another transaction was first",
    ))
}

pub(super) fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}
