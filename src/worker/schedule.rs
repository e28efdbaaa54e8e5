//! Periodic work without a leader: every process checks for due schedules. The process whose guarded update moves the
//! schedule also enqueues the tick's job, in the same transaction.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::jobs::{Periodic, SCHEDULES};
use crate::store::{DueTick, Queue, StoreError, Tx};

/// How often to check. This compares times only; it does not query the database.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The timeout of enqueueing.
const LIMIT: Duration = Duration::from_secs(10);

/// Enqueues due schedules until cancelled.
pub(super) async fn keep(app: App, stop: CancellationToken) {
    let mut due = app.clock.now();
    let mut looks = tokio::time::interval(POLL_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        if app.clock.now() < due {
            continue;
        }
        match app.store.with_timeout(LIMIT, tick(&app)).await {
            Ok(next) => due = next,
            Err(error) => tracing::warn!(error = %error, "could not check the schedules; retrying"),
        }
    }
}

/// Enqueues a job for each schedule that is due, unless another process did so first. After an outage, one job makes up
/// for all missed ticks. Returns when the next schedule is due.
pub async fn tick(app: &App) -> Result<DateTime<Utc>, StoreError> {
    let now = app.clock.now();
    let known = app.store.read().await?.schedules().await?;
    let mut due = Vec::new();
    let mut soonest = DateTime::<Utc>::MAX_UTC;
    for schedule in SCHEDULES {
        let mut next = known.get(schedule.name).map_or(now, |row| row.due_at);
        if next <= now {
            next = next_tick(now, schedule.every);
            due.push(DueTick {
                name: schedule.name,
                next,
            });
        }
        soonest = soonest.min(next);
    }
    if !due.is_empty() {
        app.store.transaction(due, |tx, due| enqueue(tx, due).boxed()).await?;
    }
    Ok(soonest)
}

async fn enqueue(tx: &mut Tx, due: &[DueTick]) -> Result<(), StoreError> {
    let taken = tx.take_ticks(due).await?;
    let jobs: Vec<Periodic> = due
        .iter()
        .filter(|tick| taken.iter().any(|name| name == tick.name))
        .map(|tick| Periodic {
            schedule: tick.name.to_owned(),
            until: tick.next,
        })
        .collect();
    tx.enqueue(Queue::Periodic, &jobs).await
}

/// The first whole multiple of `every` after `now`: the same in every process, and without drift.
fn next_tick(now: DateTime<Utc>, every: TimeDelta) -> DateTime<Utc> {
    let every = every.num_seconds().max(1);
    let next = (now.timestamp().div_euclid(every) + 1) * every;
    DateTime::from_timestamp(next, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_lie_on_whole_multiples_of_their_period() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let cases = [
            (at(1_800_000_000), TimeDelta::minutes(1), 1_800_000_060),
            (at(1_800_000_001), TimeDelta::minutes(1), 1_800_000_060),
            (at(1_800_000_059), TimeDelta::minutes(1), 1_800_000_060),
            (at(1_800_000_001), TimeDelta::days(1), 1_800_057_600),
        ];
        for (now, every, next) in cases {
            assert_eq!(next_tick(now, every).timestamp(), next);
        }
    }

    #[test]
    fn schedules_have_names_and_periods_of_their_own() {
        let mut names: Vec<_> = SCHEDULES.iter().map(|schedule| schedule.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SCHEDULES.len());
        assert!(
            SCHEDULES
                .iter()
                .all(|schedule| schedule.every >= TimeDelta::seconds(10))
        );
    }
}
