//! How long a client may make a listener wait, and how much memory it may hold.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections of the private listener: Prometheus, probes and a few people.
const PRIVATE_CONNECTIONS: usize = 128;
/// Open files that are reserved for everything else: the database, the mail server, Clerk, the log.
const OTHER_FILES: usize = 192;

/// The limits of one listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at the same time. For one more, one that keeps us waiting is closed.
    pub connections: usize,
    /// From the first byte of a head to its last, and from the opening of a connection to its first byte.
    pub head: Duration,
    /// Bytes of a head with its request line. Beyond that, and beyond 100 headers, the answer is 431.
    pub head_size: usize,
    /// Between an answer and the next head.
    pub idle: Duration,
    /// Between two parts of a body. The whole body gets this time, and one second more per [`Limits::rate`] bytes.
    pub body: Duration,
    /// Between two parts of an answer that the client reads. The whole answer gets this time, and one second more per
    /// [`Limits::rate`] bytes.
    pub write: Duration,
    /// Bytes per second that a body or an answer needs once it takes longer than its limit.
    pub rate: u64,
    /// How long the rest of a request is read and discarded after an early answer.
    pub linger: Duration,
    /// Bytes that all unfinished requests together may hold in memory; beyond it the slowest are closed.
    pub unfinished: usize,
    /// How long active requests may take once the listener stops.
    pub stop: Duration,
}

impl Limits {
    /// The limits of the public listener.
    #[must_use]
    pub fn public(connections: usize) -> Self {
        Self {
            connections,
            head: Duration::from_secs(10),
            head_size: 32 * 1024,
            idle: Duration::from_secs(75),
            body: Duration::from_secs(10),
            write: Duration::from_secs(10),
            rate: 16 * 1024,
            linger: Duration::from_secs(2),
            unfinished: 64 * 1024 * 1024,
            stop: Duration::from_secs(10),
        }
    }

    /// The limits of the private listener: only the number of connections differs.
    #[must_use]
    pub fn private(&self) -> Self {
        Self {
            connections: PRIVATE_CONNECTIONS,
            ..self.clone()
        }
    }

    /// How long something may take in all of which so many bytes have come.
    pub(super) fn in_all(&self, limit: Duration, bytes: u64) -> Duration {
        limit + Duration::from_millis(bytes.saturating_mul(1000) / self.rate.max(1))
    }
}

/// Raises this process's limit of open files as far as allowed, and returns how many of `wanted` connections fit.
#[must_use]
pub fn connections_within_open_files(wanted: usize) -> usize {
    let most = room(raise_open_files());
    if most < wanted {
        tracing::warn!(
            "USHER_MAX_CONNECTIONS is {wanted}, but the limit of open files leaves room for {most}; raise it \
             (ulimit -n, LimitNOFILE=), or set USHER_MAX_CONNECTIONS lower"
        );
    }
    wanted.min(most)
}

/// `None` means no limit.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Public connections that fit beside everything else: at least half of the open files.
fn room(open_files: Option<u64>) -> usize {
    let files = open_files
        .and_then(|files| usize::try_from(files).ok())
        .unwrap_or(usize::MAX);
    let others = (PRIVATE_CONNECTIONS + OTHER_FILES).min(files / 2);
    (files - others).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_all_else() {
        assert_eq!(room(None), usize::MAX - PRIVATE_CONNECTIONS - OTHER_FILES);
        assert_eq!(room(Some(1024)), 1024 - 320);
        assert_eq!(room(Some(256)), 128);
        assert_eq!(room(Some(0)), 1);
    }

    #[test]
    fn a_full_batch_over_a_slow_line_has_its_time_and_a_trickle_has_not() {
        let limits = Limits::public(1);
        assert_eq!(limits.in_all(limits.body, 4 * 1024 * 1024), Duration::from_secs(266));
        assert!(limits.in_all(limits.body, 12) < Duration::from_millis(10_001));
    }
}
