//! Replaying and discarding events of the inbox.

use chrono::{DateTime, SecondsFormat, Utc};
use futures::FutureExt as _;
use uuid::Uuid;

use super::{BATCH, Entry, Operator, RepairError, Words};
use crate::store::{EventFilter, EventKey, EventState, Store, StoreError, Tx};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventAction {
    Replay,
    Discard,
}

impl EventAction {
    pub const ALL: [Self; 2] = [Self::Replay, Self::Discard];

    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }

    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::Replay => "queued again",
            Self::Discard => "discarded",
        }
    }

    /// What is lost.
    #[must_use]
    pub fn loss(self) -> &'static str {
        match self {
            Self::Replay => "They are processed again.",
            Self::Discard => "They have no effect, for good, and their dead jobs end.",
        }
    }

    /// Why an event is not changed.
    fn refused(self) -> &'static str {
        match self {
            Self::Replay => "is not there, was discarded, or its payload is no longer kept",
            Self::Discard => "is not there, or has not failed",
        }
    }

    /// The states whose events can all be changed at once; the first one if none is asked for.
    fn states(self) -> &'static [EventState] {
        match self {
            Self::Replay => &[EventState::Failed, EventState::Processed],
            Self::Discard => &[EventState::Failed],
        }
    }

    /// The events of one state that this can be done to.
    fn select(self, mut filter: EventFilter) -> EventFilter {
        let state = *filter.state.get_or_insert(EventState::Failed);
        filter.replayable = state == EventState::Processed;
        filter
    }

    fn audited(self) -> &'static str {
        match self {
            Self::Replay => "replay events",
            Self::Discard => "discard events",
        }
    }

    async fn apply(self, tx: &mut Tx, svix_ids: &[&str]) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Replay => tx.replay_events(svix_ids).await,
            Self::Discard => tx.discard_events(svix_ids).await,
        }
    }

    /// Changes the named events, or none of them.
    ///
    /// # Errors
    /// The first id for which this is not possible.
    pub async fn change_all(
        self,
        store: &Store,
        operator: Operator,
        svix_ids: &[String],
    ) -> anyhow::Result<Vec<String>> {
        let entry = Entry::new(store, operator, self.audited(), &Words::new().ids(svix_ids).text());
        let work = (svix_ids, entry);
        store
            .transaction(work, |tx, (svix_ids, entry)| {
                async move {
                    let ids: Vec<&str> = svix_ids.iter().map(String::as_str).collect();
                    let changed = self.apply(tx, &ids).await?;
                    if let Some(svix_id) = svix_ids.iter().find(|id| !changed.contains(id)) {
                        anyhow::bail!("event {svix_id} {}", self.refused());
                    }
                    tx.note_change(&entry.row(), changed.len() as u64).await?;
                    Ok(changed)
                }
                .boxed()
            })
            .await
    }
}

/// A change of all events of one state that fit a filter, counted before.
#[derive(Debug, Clone)]
pub struct EventChange {
    pub action: EventAction,
    /// How many fitted, at the count.
    pub counted: u64,
    /// What fitted then and was not tried yet.
    filter: EventFilter,
    entry: Entry,
}

impl EventChange {
    /// Counts the events, the failed ones if no state is asked for. What is received later is not part of it.
    pub async fn count(
        store: &Store,
        operator: Operator,
        action: EventAction,
        filter: EventFilter,
    ) -> Result<Self, RepairError> {
        if filter.state.is_some_and(|state| !action.states().contains(&state)) {
            return Err(RepairError::States {
                verb: action.verb(),
                what: "events",
                states: action.states().iter().map(|state| state.as_str()).collect(),
            });
        }
        let mut filter = action.select(filter);
        let words = words(&filter);
        filter.before = Some(filter.before.unwrap_or_else(|| store.now()));
        let counted = store.read().await?.count_events(&filter).await?;
        if counted == 0 {
            return Err(RepairError::Nothing {
                what: "event",
                done: action.done(),
            });
        }
        Ok(Self {
            action,
            counted,
            filter,
            entry: Entry::new(store, operator, action.audited(), &words),
        })
    }

    /// Goes on with a change that was counted before. `filter` says how far that count reached, and where the last batch
    /// ended; `entry` is the audit's.
    #[must_use]
    pub fn resume(
        store: &Store,
        operator: Operator,
        action: EventAction,
        filter: EventFilter,
        entry: Option<Uuid>,
    ) -> Self {
        let filter = action.select(filter);
        let words = words(&filter);
        Self {
            action,
            counted: 0,
            filter,
            entry: Entry::resume(store, operator, action.audited(), &words, entry),
        }
    }

    /// Changes the next batch; returns how many it changed, or `None` at the end. Others may have changed some meanwhile.
    pub async fn next_batch(&mut self, store: &Store) -> Result<Option<u64>, StoreError> {
        let keys = store.read().await?.event_keys(&self.filter, BATCH).await?;
        let Some(last) = keys.last().cloned() else {
            return Ok(None);
        };
        let (action, entry) = (self.action, self.entry.clone());
        let changed = store
            .transaction((keys, entry), |tx, (keys, entry)| {
                async move {
                    let ids: Vec<&str> = keys.iter().map(|key| key.svix_id.as_str()).collect();
                    let changed = action.apply(tx, &ids).await?.len() as u64;
                    tx.note_change(&entry.row(), changed).await?;
                    Ok::<_, StoreError>(changed)
                }
                .boxed()
            })
            .await?;
        self.filter.beyond = Some(last);
        Ok(Some(changed))
    }

    /// The state that its events had.
    #[must_use]
    pub fn state(&self) -> EventState {
        self.filter.state.unwrap_or(EventState::Failed)
    }

    /// The time before which the events of it were received.
    #[must_use]
    pub fn before(&self) -> Option<DateTime<Utc>> {
        self.filter.before
    }

    /// Where the last batch ended.
    #[must_use]
    pub fn beyond(&self) -> Option<&EventKey> {
        self.filter.beyond.as_ref()
    }

    /// The audit's entry.
    #[must_use]
    pub fn entry(&self) -> Uuid {
        self.entry.id
    }
}

fn words(filter: &EventFilter) -> String {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    Words::new()
        .add("state", filter.state)
        .add("type", filter.event_type.as_deref())
        .add("since", filter.since.map(time))
        .add("before", filter.before.map(time))
        .text()
}
