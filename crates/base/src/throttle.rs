//! Limits log lines that clients can cause: one per interval, with the number of dropped lines, so that repeated requests
//! can't fill the disk or hide other lines.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Decides whether a log line is written.
///
/// ```
/// use std::time::Duration;
/// use usher_base::Throttle;
///
/// static REFUSED: Throttle = Throttle::new(Duration::from_secs(60));
///
/// assert_eq!(REFUSED.admit(), Some(0)); // written
/// assert_eq!(REFUSED.admit(), None); // left out
/// ```
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// One line per interval.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self {
            interval,
            state: Mutex::new(State {
                last: None,
                suppressed: 0,
            }),
        }
    }

    /// One line per minute.
    #[must_use]
    pub const fn per_minute() -> Self {
        Self::new(Duration::from_secs(60))
    }

    /// `Some` if the line should be written, with the number of lines dropped since the last one; else `None`.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = state
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= self.interval);
        if !is_due {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_an_interval_tells_how_many_were_left_out() {
        let throttle = Throttle::per_minute();
        let start = Instant::now();
        let after = |seconds| throttle.admit_at(start + Duration::from_secs(seconds));
        assert_eq!(after(0), Some(0));
        assert_eq!((after(1), after(59)), (None, None));
        assert_eq!(after(60), Some(2));
        assert_eq!(after(121), Some(0));
    }
}
