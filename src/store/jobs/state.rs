//! The states of a job, as conditions on apalis's table. The partial indexes of the migrations have the same conditions:
//! the planners use them only where a statement repeats the index's text.

use crate::names::named;

named! {
    /// The state of a job.
    JobState("job state") {
        /// Due, and waiting for a worker.
        Waiting = "waiting",
        /// Not due yet: waiting for a retry, or enqueued for later.
        Scheduled = "scheduled",
        /// Held by a worker.
        Running = "running",
        /// Given up; it waits for an operator.
        Dead = "dead",
        /// Finished.
        Done = "done",
    }
}

/// Never tried, or returned to the queue.
pub(in crate::store) const PENDING: &str = "status = 'Pending'";
/// The status of a new job.
pub(in crate::store) const NEW: &str = "'Pending'";
pub(in crate::store) const FAILED: &str = "status = 'Failed'";
/// Waiting for the next attempt.
pub(in crate::store) const RETRYING: &str = "status = 'Failed' and attempts < max_attempts";
/// Not held, and neither done nor given up by apalis: what an index of the status alone can say. Some of the failed ones are
/// dead.
pub(in crate::store) const PENDING_OR_FAILED: &str = "status in ('Pending', 'Failed')";
/// Held by a worker: fetched, or started where the worker says so.
pub(in crate::store) const HELD: &str = "status in ('Running', 'Queued')";
/// apalis will not run it again, whatever the status says.
pub(in crate::store) const DEAD: &str = "status = 'Killed' or (status = 'Failed' and attempts >= max_attempts)";
pub(in crate::store) const DONE: &str = "status = 'Done'";
pub(in crate::store) const UNFINISHED: &str = "status <> 'Done'";

/// Returns a job to the queue.
pub(in crate::store) const RELEASE: &str = "status = 'Pending', lock_by = null, lock_at = null";
/// Of a job that its worker lost: an attempt that was started counts.
pub(in crate::store) const COUNT_IF_STARTED: &str =
    "attempts = attempts + case status when 'Running' then 1 else 0 end";

impl JobState {
    /// Whether a job is in this state.
    pub(in crate::store) fn condition(self, now: &str) -> String {
        let open = format!("({PENDING} or ({RETRYING}))");
        match self {
            Self::Waiting => format!("({open} and run_at <= {now})"),
            Self::Scheduled => format!("({open} and run_at > {now})"),
            Self::Running => HELD.to_owned(),
            Self::Dead => format!("({DEAD})"),
            Self::Done => DONE.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DEAD, DONE, HELD, UNFINISHED};

    #[test]
    fn the_indexes_have_the_same_conditions() {
        let migrations = [
            include_str!("../../../migrations/postgres/0001_usher.sql"),
            include_str!("../../../migrations/sqlite/0001_usher.sql"),
        ];
        for (index, condition) in [
            ("usher_jobs_held", HELD),
            ("usher_jobs_dead", DEAD),
            ("usher_jobs_done", DONE),
            ("usher_jobs_with_error", UNFINISHED),
        ] {
            for migration in migrations {
                let (_, rest) = migration.split_once(&format!("create index {index} on ")).unwrap();
                let (statement, _) = rest.split_once(';').unwrap();
                let (_, of_index) = statement.split_once("where ").unwrap();
                let of_index = of_index.trim_end_matches(" and last_result is not null");
                assert_eq!(of_index, condition, "{index}");
            }
        }
    }
}
