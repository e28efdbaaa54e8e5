//! Pausing and resuming queues.

use futures::FutureExt as _;

use super::{Entry, Operator, RepairError};
use crate::store::{Queue, Store, StoreError};

/// Characters of a reason.
const MAX_REASON: usize = 200;

/// Pauses a queue: what runs ends, and nothing new is started. All operators see the reason.
pub async fn pause_queue(store: &Store, operator: Operator, queue: Queue, reason: &str) -> Result<(), RepairError> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > MAX_REASON || reason.contains('\0') {
        return Err(RepairError::Reason { most: MAX_REASON });
    }
    let subject = format!("{queue}: {reason}");
    let entry = Entry::new(store, operator, "pause queue", &subject);
    let paused = store.transaction((entry, reason), |tx, (entry, reason)| {
        async move {
            let paused = tx.pause_queue(queue, reason, &entry.operator.name).await?;
            if paused {
                tx.note_change(&entry.row(), 1).await?;
            }
            Ok::<_, StoreError>(paused)
        }
        .boxed()
    });
    if paused.await? {
        Ok(())
    } else {
        Err(RepairError::IsPaused(queue))
    }
}

/// Resumes a queue.
pub async fn resume_queue(store: &Store, operator: Operator, queue: Queue) -> Result<(), RepairError> {
    let entry = Entry::new(store, operator, "resume queue", queue.as_str());
    let resumed = store.transaction(entry, |tx, entry| {
        async move {
            let resumed = tx.resume_queue(queue).await?;
            if resumed {
                tx.note_change(&entry.row(), 1).await?;
            }
            Ok::<_, StoreError>(resumed)
        }
        .boxed()
    });
    if resumed.await? {
        Ok(())
    } else {
        Err(RepairError::IsNotPaused(queue))
    }
}
