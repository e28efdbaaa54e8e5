//! The row of the mail circuit breaker, which is there while it is open.

use chrono::{DateTime, Utc};

use super::{Result, Tx, on_conn};

/// The mail server refuses usher itself, and all mails wait.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OpenCircuit {
    /// The server's reply, with addresses masked.
    pub reason: String,
    pub since: DateTime<Utc>,
    /// How many probe mails were tried since then.
    pub probes: i32,
    /// When the next probe is due.
    pub probe_at: DateTime<Utc>,
}

impl Tx {
    /// The open circuit, if it is open.
    pub async fn circuit_opened(&mut self) -> Result<Option<OpenCircuit>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select reason, since, probes, probe_at from usher_mail_circuit"
        )
        .fetch_optional(conn)
        .await)?)
    }

    /// Opens the circuit; `false` if it was open.
    pub async fn open_circuit(&mut self, reason: &str, probe_at: DateTime<Utc>) -> Result<bool> {
        let now = self.clock.now();
        let opened = on_conn!(self, |conn| sqlx::query(
            "insert into usher_mail_circuit (id, reason, since, probe_at) values (1, $1, $2, $3)
             on conflict (id) do nothing"
        )
        .bind(reason)
        .bind(now)
        .bind(probe_at)
        .execute(conn)
        .await?
        .rows_affected());
        Ok(opened == 1)
    }

    /// Claims the next probe, after so many, and schedules the one after it for `next`; `false` if another process
    /// claimed it.
    pub async fn claim_circuit_probe(&mut self, probes: i32, next: DateTime<Utc>) -> Result<bool> {
        let claimed = on_conn!(self, |conn| sqlx::query(
            "update usher_mail_circuit set probes = probes + 1, probe_at = $2 where probes = $1"
        )
        .bind(probes)
        .bind(next)
        .execute(conn)
        .await?
        .rows_affected());
        Ok(claimed == 1)
    }

    /// Closes the circuit; returns it unless another process closed it first.
    pub async fn close_circuit(&mut self) -> Result<Option<OpenCircuit>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "delete from usher_mail_circuit returning reason, since, probes, probe_at"
        )
        .fetch_optional(conn)
        .await)?)
    }
}
