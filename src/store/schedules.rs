//! Periodic work: one row per schedule, and one guarded update that gives each tick to one process.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::rows::{Row as _, Time, row, sql, to_json};
use super::{Result, Tx, on_conn};

/// A schedule that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueTick {
    pub name: &'static str,
    /// When it is due after this tick.
    pub next: DateTime<Utc>,
}

/// A schedule as the database knows it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ScheduleRow {
    pub name: String,
    pub due_at: DateTime<Utc>,
    /// When a run ended last.
    pub last_at: Option<DateTime<Utc>>,
    /// Why that run failed, if it did.
    pub last_error: Option<String>,
}

row! {
    struct TickRow<'a> {
        name: &'a str,
        due_at: Time,
    }
}

impl Tx {
    /// The schedules, by name. A schedule that never ran is missing.
    pub async fn schedules(&mut self) -> Result<HashMap<String, ScheduleRow>> {
        let rows: Vec<ScheduleRow> = on_conn!(self, |conn| sqlx::query_as(
            "select name, due_at, last_at, last_error from usher_schedules"
        )
        .fetch_all(conn)
        .await)?;
        Ok(rows.into_iter().map(|row| (row.name.clone(), row)).collect())
    }

    /// Stores how a run of a schedule ended.
    pub async fn note_schedule_run(&mut self, name: &str, error: Option<&str>) -> Result<()> {
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(
            "update usher_schedules set last_at = $2, last_error = $3 where name = $1"
        )
        .bind(name)
        .bind(now)
        .bind(error)
        .execute(conn)
        .await
        .map(drop))?;
        Ok(())
    }

    /// Claims the schedules that are still due and moves each to its next time; returns the names that this transaction
    /// claimed. A second process claims none.
    pub async fn take_ticks(&mut self, due: &[DueTick]) -> Result<Vec<String>> {
        let (columns, source) = (TickRow::columns(), TickRow::unfold(self.dialect()));
        let text = format!(
            "insert into usher_schedules ({columns}) select r.* from {source} where true
             on conflict (name) do update set due_at = excluded.due_at where usher_schedules.due_at <= $2
             returning name"
        );
        let mut rows: Vec<_> = due
            .iter()
            .map(|tick| TickRow {
                name: tick.name,
                due_at: Time(tick.next),
            })
            .collect();
        // Always in this order, to avoid deadlocks.
        rows.sort_by_key(|row| row.name);
        let rows = to_json(&rows)?;
        let now = self.clock.now();
        Ok(on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(rows)
            .bind(now)
            .fetch_all(conn)
            .await)?)
    }
}
