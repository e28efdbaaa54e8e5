//! Periodic work: when it ran and runs, and running it now.

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use serde::Serialize;

use super::{Entry, Operator, RepairError};
use crate::jobs::{Periodic, SCHEDULES};
use crate::store::{Queue, Store, StoreError};

/// A schedule, and what is known of its runs.
#[derive(Debug, Clone, Serialize)]
pub struct ScheduleView {
    pub name: &'static str,
    pub every_seconds: i64,
    /// When it ended last.
    pub last_at: Option<DateTime<Utc>>,
    /// Why it failed then, if it did.
    pub last_error: Option<String>,
    pub due_at: Option<DateTime<Utc>>,
}

/// All schedules of this version.
pub async fn schedules(store: &Store) -> Result<Vec<ScheduleView>, StoreError> {
    let known = store.read().await?.schedules().await?;
    let view = |name, every: chrono::TimeDelta| {
        let row = known.get(name);
        ScheduleView {
            name,
            every_seconds: every.num_seconds(),
            last_at: row.and_then(|row| row.last_at),
            last_error: row.and_then(|row| row.last_error.clone()),
            due_at: row.map(|row| row.due_at),
        }
    };
    Ok(SCHEDULES
        .iter()
        .map(|schedule| view(schedule.name, schedule.every))
        .collect())
}

/// Enqueues a run of a schedule now. Its next tick stays as it is.
pub async fn run_schedule(store: &Store, operator: Operator, name: &str) -> Result<(), RepairError> {
    let Some(schedule) = SCHEDULES.iter().find(|schedule| schedule.name == name) else {
        return Err(RepairError::Schedule {
            all: SCHEDULES.iter().map(|schedule| schedule.name).collect(),
        });
    };
    let known = store.read().await?.schedules().await?;
    let run = Periodic {
        schedule: schedule.name.to_owned(),
        until: known.get(name).map_or(store.now() + schedule.every, |row| row.due_at),
    };
    let entry = Entry::new(store, operator, "run schedule", name);
    let enqueued = store.transaction((entry, run), |tx, (entry, run)| {
        async move {
            tx.enqueue(Queue::Periodic, std::slice::from_ref(run)).await?;
            tx.note_change(&entry.row(), 1).await
        }
        .boxed()
    });
    Ok(enqueued.await?)
}
