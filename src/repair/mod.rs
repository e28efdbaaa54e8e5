//! What an operator repairs by hand: the board and the command line call the same functions, and each change is in the
//! audit.
//!
//! Many are changed in batches. What there is was counted before, and what came later is not touched.

mod events;
mod jobs;
mod outgoing;
mod queues;
mod schedules;

use chrono::TimeDelta;
pub use events::{EventAction, EventChange};
pub use jobs::{JobAction, JobChange};
pub use outgoing::{enable_endpoint, send_again};
pub use queues::{pause_queue, resume_queue};
pub use schedules::{ScheduleView, run_schedule, schedules};
use usher_base::mask::mask_addresses;
use uuid::Uuid;

use crate::store::{AuditDoor, NewAudit, Queue, Store, StoreError};

/// How many one transaction changes.
const BATCH: u32 = 500;

/// How long a change may go on under one entry of the audit.
const RESUMED: TimeDelta = TimeDelta::days(1);

/// Who changes something.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Of their ops key, or of the account that runs the command.
    pub name: String,
    pub door: AuditDoor,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The states that were asked for can't be changed so.
    #[error("{verb} is for {what} that are {}", states.join(" or "))]
    States {
        verb: &'static str,
        what: &'static str,
        states: Vec<&'static str>,
    },
    #[error("no {what} that can be {done} is among those")]
    Nothing { what: &'static str, done: &'static str },
    #[error("a reason is needed, of at most {most} characters")]
    Reason { most: usize },
    #[error("there is no schedule like that; there are {}", all.join(", "))]
    Schedule { all: Vec<&'static str> },
    #[error("{0} is paused already")]
    IsPaused(Queue),
    #[error("{0} is not paused")]
    IsNotPaused(Queue),
    #[error("no disabled endpoint is called {0}; usher events list --state cancelled shows what was not sent")]
    IsNotDisabled(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The entry of one change.
#[derive(Debug, Clone)]
struct Entry {
    id: Uuid,
    operator: Operator,
    action: &'static str,
    subject: String,
}

impl Entry {
    fn new(store: &Store, operator: Operator, action: &'static str, subject: &str) -> Self {
        Self {
            id: store.new_id(),
            operator,
            action,
            subject: mask_addresses(subject),
        }
    }

    /// The entry of a change that goes on, if it began a short time ago.
    fn resume(store: &Store, operator: Operator, action: &'static str, subject: &str, id: Option<Uuid>) -> Self {
        let began = |id: &Uuid| Some(id.get_timestamp()?.to_unix().0);
        let earliest = (store.now() - RESUMED).timestamp().unsigned_abs();
        let new = Self::new(store, operator, action, subject);
        match id.filter(|id| began(id).is_some_and(|began| began >= earliest)) {
            Some(id) => Self { id, ..new },
            None => new,
        }
    }

    fn row(&self) -> NewAudit<'_> {
        NewAudit {
            id: self.id,
            who: &self.operator.name,
            door: self.operator.door,
            action: self.action,
            subject: &self.subject,
        }
    }
}

/// Stores that something was refused. If that fails, the refusal still holds.
pub async fn refuse(store: &Store, operator: Operator, action: &str, why: &str) {
    let entry = NewAudit {
        id: store.new_id(),
        who: &operator.name,
        door: operator.door,
        action,
        subject: "",
    };
    let noted = store.transaction((entry, why), |tx, (entry, why)| Box::pin(tx.note_refusal(entry, why)));
    if let Err(error) = noted.await {
        tracing::warn!(error = %error, "could not record a refused change in the audit");
    }
}

/// A filter in the words of the command line's options, such as `queue=send-mail state=dead`.
struct Words(Vec<String>);

impl Words {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        self.0.extend(value.map(|value| format!("{name}={value}")));
        self
    }

    /// Ids, of which a few are named.
    fn ids(mut self, ids: &[String]) -> Self {
        const SHOWN: usize = 5;
        self.0.extend(ids.iter().take(SHOWN).cloned());
        if ids.len() > SHOWN {
            self.0.push(format!("and {} more", ids.len() - SHOWN));
        }
        self
    }

    fn text(self) -> String {
        if self.0.is_empty() {
            return "all".to_owned();
        }
        self.0.join(" ")
    }
}
