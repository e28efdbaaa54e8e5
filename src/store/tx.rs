//! A transaction on either database.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::history::History;
use super::outgoing;
use super::{Dialect, Queue, Result, Wake};
use crate::clock::Clock;

/// A transaction. Dropped without [`Tx::commit`], it is rolled back.
pub struct Tx {
    pub(crate) conn: Conn,
    pub(super) wake: Wake,
    pub(super) clock: Clock,
    pub(super) enqueued: Vec<Queue>,
    pub(super) history: History,
    /// What the app is to be told of.
    pub(super) outgoing: Vec<outgoing::NewEvent>,
    /// Whether events got numbers.
    pub(super) numbered: bool,
    /// Whether the app keeps people of its own in the same tables.
    pub(super) is_shared: bool,
}

pub(crate) enum Conn {
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
}

/// Runs one body against either kind of connection.
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

impl Tx {
    /// Commits, writes and counts the invite events, and wakes the workers of the enqueued jobs and the numberer.
    ///
    /// # Errors
    /// After an error it is unknown whether the transaction was committed. Callers retry and rely on idempotency.
    pub async fn commit(mut self) -> Result<()> {
        self.write_history().await?;
        self.write_outgoing().await?;
        match self.conn {
            Conn::Postgres(tx) => tx.commit().await?,
            Conn::Sqlite(tx) => tx.commit().await?,
        }
        for queue in self.enqueued {
            self.wake.signal(queue);
        }
        if !self.outgoing.is_empty() {
            self.wake.outgoing.send_replace(());
        }
        if self.numbered {
            self.wake.numbered.send_replace(());
        }
        self.history.count();
        Ok(())
    }

    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

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
