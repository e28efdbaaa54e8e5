//! What a client may make a listener wait for or hold.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections of the private listener, apart from those of the public one: scrapers, probes and a few people.
const PRIVATE_CONNECTIONS: usize = 128;
/// Files that are kept for everything else: the database, the mail server, Clerk, the log.
const OTHER_FILES: usize = 192;

/// The limits of one listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at the same time. One more, and one that has kept us waiting is closed.
    pub connections: usize,
    /// From the first byte of a head to its last; also from the opening of a connection to its first byte.
    pub head: Duration,
    /// Bytes of a head, its request line included. Beyond that, and beyond 100 headers, the answer is 431.
    pub head_size: usize,
    /// Between an answer and the next head.
    pub idle: Duration,
    /// Between two parts of a body. The whole body has as long, and a second more for each [`Limits::rate`] bytes.
    pub body: Duration,
    /// Between two parts of an answer that the client takes. The whole answer has as long, and more by its size.
    pub write: Duration,
    /// Bytes a second that a body or an answer must reach once it takes longer than its limit.
    pub rate: u64,
    /// For how long what a client still sends is read and thrown away after an answer that did not wait for it.
    pub linger: Duration,
    /// Bytes that unfinished requests hold in memory, all together, before the slowest of them are closed.
    pub unfinished: usize,
    /// How long what has begun may take once the listener is to stop.
    pub stop: Duration,
}

impl Limits {
    /// The public listener's, for as many connections.
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

    /// The private listener's, which differ in the number of connections only.
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

/// Lets this process open as many files as it may, and returns how many of `wanted` connections that leaves room for.
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

/// `None` is no limit.
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

/// Public connections that fit beside all else: at least half of what may be open.
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
