//! What is known of the whole service: read at most once a second, and beside a large backlog less often, however many look.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::metrics::{EventsState, QueueDepth};
use crate::ops::CatalogWatch;
use crate::store::{
    EndpointRow, EventFilter, HeldJobs, MinuteOfJobs, OpenCircuit, PausedQueue, Queue, Store, StoreError,
};
use crate::worker::Alive;

const FRESH: Duration = Duration::from_secs(1);
/// How many times as long as a look took the next one waits: beside a large backlog, looks must not take from the work.
const REST: u32 = 100;
const LONGEST_REST: Duration = Duration::from_secs(5);
/// A person waits for the page.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// What is shown of the jobs that ended.
const HOUR: TimeDelta = TimeDelta::minutes(59);

/// The state of the service at a time.
pub(super) struct Snapshot {
    pub at: DateTime<Utc>,
    pub queues: Vec<QueueDepth>,
    pub held: Vec<HeldJobs>,
    /// In the last hour.
    pub ended: Vec<MinuteOfJobs>,
    pub circuit: Option<OpenCircuit>,
    pub paused: Vec<PausedQueue>,
    pub failed_events: u64,
    /// From Clerk, in the last minute.
    pub received: u64,
    pub outgoing: EventsState,
    pub endpoints: Vec<EndpointRow>,
    pub is_migrated: bool,
    /// What of the database is not as usher needs it.
    pub catalog: Vec<String>,
}

pub(super) struct Snapshots {
    workers: Option<Alive>,
    catalog: CatalogWatch,
    /// Until when it is fresh.
    last: Mutex<Option<(Instant, Known)>>,
}

/// A snapshot, or why there is none.
type Known = Arc<Result<Snapshot, String>>;

impl Snapshots {
    pub(super) fn new(workers: Option<Alive>, catalog: CatalogWatch) -> Self {
        Self {
            workers,
            catalog,
            last: Mutex::new(None),
        }
    }

    pub(super) async fn get(&self, store: &Store) -> Known {
        let mut last = self.last.lock().await;
        let begun = Instant::now();
        if let Some((until, known)) = &*last
            && begun < *until
        {
            return Arc::clone(known);
        }
        let known = match tokio::time::timeout(MAX_WAIT, take(store, self.catalog.sentences())).await {
            Ok(taken) => taken.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer in {} s", MAX_WAIT.as_secs())),
        };
        let known = Arc::new(known);
        let rest = (begun.elapsed() * REST).clamp(FRESH, LONGEST_REST);
        *last = Some((Instant::now() + rest, Arc::clone(&known)));
        known
    }

    /// The queues that this process works on, and whether their worker is alive. Empty if it runs none.
    pub(super) fn workers(&self) -> Vec<(Queue, bool)> {
        self.workers.as_ref().map(Alive::all_queues).unwrap_or_default()
    }
}

async fn take(store: &Store, catalog: Vec<String>) -> Result<Snapshot, StoreError> {
    let at = store.now();
    let last_minute = EventFilter {
        since: Some(at - TimeDelta::minutes(1)),
        ..EventFilter::default()
    };
    // Counting unfinished jobs takes longest, so the rest is read meanwhile.
    let (queues, snapshot) = tokio::try_join!(store.queue_depths(), async {
        let (held, is_migrated) = (store.held_jobs().await?, store.is_migrated().await?);
        let mut tx = store.read().await?;
        Ok(Snapshot {
            at,
            queues: Vec::new(),
            held,
            ended: tx.ended_jobs(at - HOUR).await?,
            circuit: tx.circuit_opened().await?,
            paused: tx.paused_queues().await?,
            failed_events: tx.count_failed_events().await?,
            received: tx.count_events(&last_minute).await?,
            outgoing: tx.events_state().await?,
            endpoints: tx.endpoints().await?,
            is_migrated,
            catalog,
        })
    })?;
    Ok(Snapshot { queues, ..snapshot })
}

impl Snapshot {
    /// What needs an operator, the worst first; nothing if all is well.
    pub(super) fn problems(&self, workers: &[(Queue, bool)]) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.is_migrated {
            problems.push("the schema is older than this version; run `usher migrate`".to_owned());
        }
        problems.extend(
            self.catalog
                .iter()
                .map(|found| format!("the database has changed: {found}")),
        );
        let missing: Vec<&str> = workers
            .iter()
            .filter(|(_, alive)| !alive)
            .map(|(queue, _)| queue.as_str())
            .collect();
        if !missing.is_empty() {
            problems.push(format!("no worker runs for {}; the log says why", missing.join(", ")));
        }
        if let Some(circuit) = &self.circuit {
            problems.push(format!("the mail server refuses the account: {}", circuit.reason));
        }
        problems.extend(
            self.paused
                .iter()
                .map(|row| format!("{} is paused: {}", row.queue, row.reason)),
        );
        let is_paused = |name: &str| self.paused.iter().any(|row| row.queue.as_str() == name);
        let late = self
            .queues
            .iter()
            .filter(|queue| queue.oldest_age > LATE && !is_paused(queue.queue));
        problems.extend(late.map(|queue| {
            format!(
                "{} is late: its oldest job has waited for {:.0} s",
                queue.queue, queue.oldest_age
            )
        }));
        let disabled = self.endpoints.iter().filter(|endpoint| endpoint.disabled_at.is_some());
        problems.extend(disabled.map(|endpoint| format!("the endpoint {} of the app is disabled", endpoint.name)));
        let dead: u64 = self.queues.iter().map(|queue| queue.dead).sum();
        if dead > 0 {
            problems.push(counted(dead, "job is dead", "jobs are dead"));
        }
        if self.failed_events > 0 {
            problems.push(counted(self.failed_events, "event has failed", "events have failed"));
        }
        problems
    }
}

/// Seconds that a job may wait: as the alert on the age of the oldest has it.
const LATE: f64 = 60.0;

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Snapshot {
        Snapshot {
            at: DateTime::UNIX_EPOCH,
            queues: vec![QueueDepth {
                queue: "send-mail",
                waiting: 3,
                scheduled: 0,
                running: 1,
                dead: 0,
                oldest_age: 2.0,
            }],
            held: Vec::new(),
            ended: Vec::new(),
            circuit: None,
            paused: Vec::new(),
            failed_events: 0,
            received: 0,
            outgoing: EventsState {
                unnumbered: 0,
                oldest_age: 0.0,
                dead: 0,
                disabled_endpoints: 0,
            },
            endpoints: Vec::new(),
            is_migrated: true,
            catalog: Vec::new(),
        }
    }

    #[test]
    fn what_needs_an_operator_is_named_the_worst_first() {
        let workers = [(Queue::SendMail, true)];
        assert_eq!(healthy().problems(&workers), [] as [&str; 0]);
        let mut ill = healthy();
        ill.queues[0].dead = 1;
        ill.queues[0].oldest_age = 90.0;
        ill.failed_events = 2;
        let expected = [
            "no worker runs for send-mail; the log says why",
            "send-mail is late: its oldest job has waited for 90 s",
            "1 job is dead",
            "2 events have failed",
        ];
        assert_eq!(ill.problems(&[(Queue::SendMail, false)]), expected);
    }
}
