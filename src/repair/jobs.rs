//! Retrying, cancelling and deleting jobs.

use futures::FutureExt as _;
use uuid::Uuid;

use super::{BATCH, Entry, Operator, RepairError, Words};
use crate::store::{JobCount, JobFilter, JobState, Store, StoreError, Tx};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobAction {
    Retry,
    Cancel,
    Purge,
}

impl JobAction {
    pub const ALL: [Self; 3] = [Self::Retry, Self::Cancel, Self::Purge];

    /// The states of jobs that this can be done to.
    #[must_use]
    pub fn states(self) -> &'static [JobState] {
        match self {
            Self::Retry => &[JobState::Dead, JobState::Scheduled],
            Self::Cancel => &[JobState::Waiting, JobState::Scheduled],
            Self::Purge => &[JobState::Dead, JobState::Done],
        }
    }

    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Purge => "purge",
        }
    }

    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::Retry => "queued again",
            Self::Cancel => "cancelled",
            Self::Purge => "deleted",
        }
    }

    /// What is lost.
    #[must_use]
    pub fn loss(self) -> &'static str {
        match self {
            Self::Retry => "They run again at once, with all attempts left.",
            Self::Cancel => "Their mails are not sent, and their events fail.",
            Self::Purge => "They and their failed attempts are deleted for good. Failed events stay in the inbox.",
        }
    }

    fn audited(self) -> &'static str {
        match self {
            Self::Retry => "retry jobs",
            Self::Cancel => "cancel jobs",
            Self::Purge => "purge jobs",
        }
    }

    /// Leaves only those states in a filter that this can be done to.
    fn restrict(self, filter: &mut JobFilter) -> Result<(), RepairError> {
        if filter.states.is_empty() {
            filter.states = self.states().to_vec();
        } else if !filter.states.iter().all(|state| self.states().contains(state)) {
            return Err(RepairError::States {
                verb: self.verb(),
                what: "jobs",
                states: self.states().iter().map(|state| state.as_str()).collect(),
            });
        }
        Ok(())
    }

    async fn apply(self, tx: &mut Tx, ids: &[String]) -> Result<u64, StoreError> {
        match self {
            Self::Retry => Ok(tx.retry_jobs(ids).await?.len() as u64),
            Self::Cancel => Ok(tx.cancel_jobs(ids).await?.len() as u64),
            Self::Purge => tx.purge_jobs(ids).await,
        }
    }
}

/// A change of all jobs that fit a filter, counted before.
#[derive(Debug, Clone)]
pub struct JobChange {
    pub action: JobAction,
    /// How many fitted, at the count.
    pub counted: JobCount,
    /// What fitted then and was not tried yet.
    filter: JobFilter,
    entry: Entry,
}

impl JobChange {
    /// Counts the jobs that can be changed so. What is enqueued later is not part of it.
    pub async fn count(
        store: &Store,
        operator: Operator,
        action: JobAction,
        mut filter: JobFilter,
    ) -> Result<Self, RepairError> {
        action.restrict(&mut filter)?;
        let counted = store.read().await?.count_jobs(&filter).await?;
        if counted.total() == 0 {
            return Err(RepairError::Nothing {
                what: "job",
                done: action.done(),
            });
        }
        filter.through = filter.through.or(counted.through.clone());
        let entry = Entry::new(store, operator, action.audited(), &words(&filter, action));
        Ok(Self {
            action,
            counted,
            filter,
            entry,
        })
    }

    /// Goes on with a change that was counted before. `filter` says how far that count reached, and where the last batch
    /// ended; `entry` is the audit's.
    ///
    /// # Errors
    /// When the filter has states that can't be changed so.
    pub fn resume(
        store: &Store,
        operator: Operator,
        action: JobAction,
        mut filter: JobFilter,
        entry: Option<Uuid>,
    ) -> Result<Self, RepairError> {
        action.restrict(&mut filter)?;
        let words = words(&filter, action);
        Ok(Self {
            action,
            counted: JobCount::default(),
            filter,
            entry: Entry::resume(store, operator, action.audited(), &words, entry),
        })
    }

    /// Changes the next batch; returns how many it changed, or `None` at the end. Each id is tried once: a job that fails
    /// again at once would otherwise be selected again and again.
    pub async fn next_batch(&mut self, store: &Store) -> Result<Option<u64>, StoreError> {
        let ids = store.read().await?.job_ids(&self.filter, BATCH).await?;
        let Some(last) = ids.last().cloned() else {
            return Ok(None);
        };
        let (action, entry) = (self.action, self.entry.clone());
        let changed = store
            .transaction((ids, entry), |tx, (ids, entry)| {
                async move {
                    let changed = action.apply(tx, ids).await?;
                    tx.note_change(&entry.row(), changed).await?;
                    Ok::<_, StoreError>(changed)
                }
                .boxed()
            })
            .await?;
        self.filter.beyond = Some(last);
        Ok(Some(changed))
    }

    /// The highest id that is part of it.
    #[must_use]
    pub fn through(&self) -> Option<&str> {
        self.filter.through.as_deref()
    }

    /// Where the last batch ended.
    #[must_use]
    pub fn beyond(&self) -> Option<&str> {
        self.filter.beyond.as_deref()
    }

    /// The audit's entry.
    #[must_use]
    pub fn entry(&self) -> Uuid {
        self.entry.id
    }
}

fn words(filter: &JobFilter, action: JobAction) -> String {
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let is_default = filter.states == action.states();
    Words::new()
        .ids(&filter.ids)
        .add("queue", filter.queue)
        .add("state", (!is_default).then(|| states.join("+")))
        .add("before", filter.before.map(|at| at.to_rfc3339()))
        .add("error", filter.error.as_ref().map(|words| format!("{words:?}")))
        .add("about", filter.about.as_ref().map(|ids| ids.join("+")))
        .text()
}
