//! `process-clerk-event`: applies an event from Clerk. Events that wait at the same moment share a transaction.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};

use super::{Context, Job, JobError};
use crate::app::App;
use crate::batch::{BATCH_TIMEOUT, BatchHandler, Batcher, Locks};
use crate::flows::{Outcome, ReceivedEvent, apply_events};
use crate::metrics;
use crate::store::{Dialect, Finished, Queue, Store, StoreError, Tx};
use usher_clerk::{BackendError, User};

/// The maximum number of events per transaction.
const MAX_BATCH_SIZE: usize = 256;
/// How long `user.created` may arrive after `session.created`; after that the latter is ignored.
const USER_TIMEOUT: TimeDelta = TimeDelta::minutes(10);

/// One event of the inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessClerkEvent {
    pub svix_id: String,
}

impl Job for ProcessClerkEvent {
    const QUEUE: Queue = Queue::ProcessClerkEvent;
    /// Its batch has a timeout of its own, which starts when a worker takes it. If the job gave up before, the batch
    /// would still do its item. Running it twice is harmless.
    const TIME_LIMIT: Duration = Duration::from_secs(300);

    fn about(&self) -> Option<String> {
        Some(self.svix_id.clone())
    }

    async fn run(&self, context: &Context) -> Result<(), JobError> {
        match context.events.apply(&self.svix_id, None).await? {
            Applied::Done => Ok(()),
            Applied::Unreadable(error) => Err(JobError::GiveUp(error)),
            Applied::Locked => Err(locked()),
            Applied::UserUnknown {
                clerk_user_id,
                received_at,
            } => self.with_unknown_user(context, &clerk_user_id, received_at).await,
        }
    }

    /// The event stays in the inbox, with the error.
    async fn gave_up(&self, context: &Context, why: &str) -> Result<(), JobError> {
        self.finish(&context.app, Err(why.to_owned())).await
    }
}

impl ProcessClerkEvent {
    /// A sign-in of a user before their `user.created`: asks Clerk, waits, or ignores it.
    async fn with_unknown_user(
        &self,
        context: &Context,
        clerk_user_id: &str,
        received_at: DateTime<Utc>,
    ) -> Result<(), JobError> {
        let asked = match &context.app.clerk {
            Some(clerk) => clerk.user(clerk_user_id).await,
            None => Err(BackendError::Unavailable("no CLERK_SECRET_KEY".to_owned())),
        };
        match asked {
            Ok(Some(user)) => match context.events.apply(&self.svix_id, Some(user)).await? {
                Applied::Unreadable(error) => Err(JobError::GiveUp(error)),
                Applied::Locked => Err(locked()),
                Applied::Done | Applied::UserUnknown { .. } => Ok(()),
            },
            // Clerk has no such user: a test event from the dashboard, or a user who is already deleted.
            Ok(None) | Err(BackendError::InvalidId) => self.finish(&context.app, Ok("user unknown")).await,
            Err(_) if context.app.clock.now() - received_at > USER_TIMEOUT => {
                self.finish(&context.app, Ok("user unknown")).await
            }
            Err(why) => Err(JobError::Retry(format!("the user is not known yet: {why}"))),
        }
    }

    async fn finish(&self, app: &App, outcome: Result<&'static str, String>) -> Result<(), JobError> {
        let finished = Finished {
            svix_id: self.svix_id.clone(),
            outcome,
        };
        let noted = app
            .store
            .transaction([finished], |tx, finished| tx.finish_events(finished).boxed());
        Ok(noted.await?)
    }
}

/// Another transaction has locked the target of an invite that the event accepts.
fn locked() -> JobError {
    JobError::from(StoreError::busy())
}

/// Applies events in batches.
pub(super) struct Events {
    batcher: Batcher<Request, Applied>,
    /// Events that hit a lock, until their next attempt.
    locked: Mutex<HashSet<String>>,
}

/// The maximum size of that set. Beyond it, the set is cleared: other processes may have applied these events. An event
/// that is forgotten delays one more batch for a moment.
const MAX_LOCKED: usize = 10_000;

struct Request {
    svix_id: String,
    user: Option<User>,
}

#[derive(Debug, Clone)]
enum Applied {
    Done,
    UserUnknown {
        clerk_user_id: String,
        received_at: DateTime<Utc>,
    },
    Unreadable(String),
    Locked,
}

impl Events {
    pub(super) fn start(app: App) -> Self {
        let workers = match app.store.dialect() {
            Dialect::Postgres => 2,
            Dialect::Sqlite => 1,
        };
        Self {
            batcher: Batcher::start(workers, MAX_BATCH_SIZE, Apply(app)),
            locked: Mutex::default(),
        }
    }

    async fn apply(&self, svix_id: &str, user: Option<User>) -> Result<Applied, JobError> {
        let request = Request {
            svix_id: svix_id.to_owned(),
            user,
        };
        let was_locked = self.locked().remove(svix_id);
        let applied = if was_locked {
            self.batcher.submit_apart(request).await
        } else {
            self.batcher.submit(request).await
        };
        let applied = applied.map_err(JobError::from);
        if matches!(
            applied,
            Ok(Applied::Locked) | Err(JobError::Busy(_) | JobError::Deferred)
        ) {
            let mut locked = self.locked();
            if locked.len() >= MAX_LOCKED {
                locked.clear();
            }
            locked.insert(svix_id.to_owned());
        }
        applied
    }

    fn locked(&self) -> MutexGuard<'_, HashSet<String>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Apply(App);

impl BatchHandler<Request, Applied> for Apply {
    async fn commit(&self, group: &[Request], locks: Locks) -> Result<Vec<Applied>, StoreError> {
        let store = self.0.store.with_lock_wait(locks.wait);
        store
            .with_timeout(BATCH_TIMEOUT, self.apply(&store, group, locks))
            .await
    }
}

impl Apply {
    async fn apply(&self, store: &Store, group: &[Request], locks: Locks) -> Result<Vec<Applied>, StoreError> {
        let applied = store.transaction((self, group), |tx, (apply, group)| {
            apply.apply_in(tx, group, locks).boxed()
        });
        let (applied, waits) = applied.await?;
        waits.into_iter().for_each(metrics::webhook_applied);
        Ok(applied)
    }

    /// The result of each event, and how long each applied event waited since it was received.
    async fn apply_in(
        &self,
        tx: &mut Tx,
        group: &[Request],
        locks: Locks,
    ) -> Result<(Vec<Applied>, Vec<Duration>), StoreError> {
        let Self(app) = self;
        let ids: Vec<&str> = group.iter().map(|request| request.svix_id.as_str()).collect();
        let events = tx.unprocessed_events(&ids).await?;
        let received: HashMap<String, DateTime<Utc>> = events
            .iter()
            .map(|event| (event.svix_id.clone(), event.received_at))
            .collect();
        let mut users: HashMap<&str, &User> = group
            .iter()
            .filter_map(|request| Some((request.svix_id.as_str(), request.user.as_ref()?)))
            .collect();
        let arrived = events
            .into_iter()
            .map(|event| ReceivedEvent {
                user: users.remove(event.svix_id.as_str()).cloned(),
                event,
            })
            .collect();
        let outcomes = apply_events(tx, arrived, app.config.auto_accept, &app.config.roles, locks.skip).await?;
        let now = app.clock.now();
        let wait = |(svix_id, outcome): (&String, &Outcome)| match (outcome, received.get(svix_id)) {
            (Outcome::Done(_), Some(&at)) => Some((now - at).to_std().unwrap_or_default()),
            _ => None,
        };
        let waits = outcomes.iter().filter_map(wait).collect();
        let applied = |request: &Request| match outcomes.get(&request.svix_id) {
            // Applied before, by an earlier attempt.
            None | Some(Outcome::Done(_)) => Applied::Done,
            Some(Outcome::Locked) => Applied::Locked,
            Some(Outcome::Unreadable(error)) => Applied::Unreadable(error.clone()),
            Some(Outcome::UserUnknown(clerk_user_id)) => Applied::UserUnknown {
                clerk_user_id: clerk_user_id.clone(),
                received_at: received.get(&request.svix_id).copied().unwrap_or_default(),
            },
        };
        Ok((group.iter().map(applied).collect(), waits))
    }
}
