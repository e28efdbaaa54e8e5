//! The endpoints of `USHER_EVENTS`: which queue is whose, and which are disabled.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::EventDeliveryStatus;
use crate::store::jobs::dialect_sql;
use crate::store::jobs::state::{DONE, PENDING_OR_FAILED};
use crate::store::rows::sql;
use crate::store::{Dialect, Queue, Result, Tx, on_conn};

/// An endpoint as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct EndpointRow {
    pub name: String,
    /// Which of [`Queue::DELIVERIES`] is its own, counted from 1.
    pub slot: i32,
    pub disabled_at: Option<DateTime<Utc>>,
    pub disabled_reason: Option<String>,
}

impl EndpointRow {
    /// The endpoint's queue.
    #[must_use]
    pub fn queue(&self) -> Option<Queue> {
        let index = usize::try_from(self.slot).ok()?.checked_sub(1)?;
        Queue::DELIVERIES.get(index).copied()
    }
}

impl Tx {
    /// The endpoints, by name.
    pub async fn endpoints(&mut self) -> Result<Vec<EndpointRow>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select name, slot, disabled_at, disabled_reason from usher_event_endpoints order by name"
        )
        .fetch_all(conn)
        .await)?)
    }

    /// Gives each of these endpoints a queue. Those that are no longer named are forgotten, and what was queued for them
    /// is cancelled: returns their names and how many deliveries that were.
    pub async fn register_endpoints(&mut self, names: &[&str]) -> Result<Vec<(String, u64)>> {
        // Of two processes that start at once, one waits here.
        if self.dialect() == Dialect::Postgres {
            on_conn!(self, |conn| sqlx::query(
                "select last_number from usher_event_feed for update"
            )
            .execute(conn)
            .await
            .map(drop))?;
        }
        let known = self.endpoints().await?;
        let mut cancelled = Vec::new();
        for gone in known.iter().filter(|row| !names.contains(&row.name.as_str())) {
            let deliveries = self.forget_endpoint(gone).await?;
            cancelled.push((gone.name.clone(), deliveries));
        }
        let kept: Vec<&EndpointRow> = known.iter().filter(|row| names.contains(&row.name.as_str())).collect();
        let taken: HashSet<i32> = kept.iter().map(|row| row.slot).collect();
        let slots = i32::try_from(Queue::DELIVERIES.len()).unwrap_or(0);
        let mut free = (1..=slots).filter(|slot| !taken.contains(slot));
        for name in names.iter().filter(|name| kept.iter().all(|row| row.name != **name)) {
            let Some(slot) = free.next() else { break };
            on_conn!(self, |conn| sqlx::query(
                "insert into usher_event_endpoints (name, slot) values ($1, $2)"
            )
            .bind(*name)
            .bind(slot)
            .execute(conn)
            .await
            .map(drop))?;
        }
        Ok(cancelled)
    }

    async fn forget_endpoint(&mut self, row: &EndpointRow) -> Result<u64> {
        let cancelled = on_conn!(self, |conn| sqlx::query(
            "update usher_event_deliveries set status = $2 where endpoint = $1 and status = 'queued'"
        )
        .bind(&row.name)
        .bind(EventDeliveryStatus::Cancelled.as_str())
        .execute(conn)
        .await?
        .rows_affected());
        on_conn!(self, |conn| sqlx::query(
            "delete from usher_event_endpoints where name = $1"
        )
        .bind(&row.name)
        .execute(conn)
        .await
        .map(drop))?;
        if let Some(queue) = row.queue() {
            let dialect = dialect_sql(self.dialect());
            let text = format!(
                "update {} set {DONE}, done_at = {}, last_result = '{{\"Err\": \"the endpoint is no longer configured\"}}'
                 where job_type = $1 and {PENDING_OR_FAILED}",
                dialect.table, dialect.now
            );
            on_conn!(self, |conn| sqlx::query(sql(text))
                .bind(queue.stored())
                .execute(conn)
                .await
                .map(drop))?;
        }
        Ok(cancelled)
    }

    /// Disables an endpoint: nothing is sent to it until [`Tx::enable_endpoint`]. `false` if it was disabled before.
    pub async fn disable_endpoint(&mut self, name: &str, reason: &str) -> Result<bool> {
        let now = self.clock.now();
        Ok(on_conn!(self, |conn| sqlx::query(
            "update usher_event_endpoints set disabled_at = $2, disabled_reason = $3
             where name = $1 and disabled_at is null"
        )
        .bind(name)
        .bind(now)
        .bind(reason)
        .execute(conn)
        .await?
        .rows_affected())
            == 1)
    }

    /// Enables an endpoint again; `false` if it was not disabled.
    pub async fn enable_endpoint(&mut self, name: &str) -> Result<bool> {
        Ok(on_conn!(self, |conn| sqlx::query(
            "update usher_event_endpoints set disabled_at = null, disabled_reason = null
             where name = $1 and disabled_at is not null"
        )
        .bind(name)
        .execute(conn)
        .await?
        .rows_affected())
            == 1)
    }
}
