//! Rate limits: a token bucket per caller. Buckets are in memory, so each process counts for itself; a full bucket is
//! dropped.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock as _;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::clock::Clock;

/// Full buckets are dropped after this many checks.
const SWEEP_EVERY: u32 = 4096;

/// Calls per period. They may come all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    calls: NonZeroU32,
    /// Seconds, and the unit's letter.
    period: (u32, char),
}

impl RateLimit {
    /// How many calls a full bucket holds.
    #[must_use]
    pub fn calls(self) -> u32 {
        self.calls.get()
    }

    /// The seconds in which an empty bucket refills.
    #[must_use]
    pub fn seconds(self) -> u32 {
        self.period.0
    }

    /// The time in which one call refills.
    fn interval(self) -> Duration {
        Duration::from_secs(u64::from(self.seconds())) / self.calls()
    }
}

impl FromStr for RateLimit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "must be calls per second, minute or hour such as 10/s, 600/m or 5000/h, or off";
        let (calls, period) = text.split_once('/').ok_or(FORM)?;
        let period = match period.trim() {
            "s" => (1, 's'),
            "m" => (60, 'm'),
            "h" => (3600, 'h'),
            _ => return Err(FORM),
        };
        let calls: NonZeroU32 = calls.trim().parse().map_err(|_| FORM)?;
        if calls.get() > 1_000_000 {
            return Err("must be at most 1000000 calls, or off");
        }
        Ok(Self { calls, period })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.calls, self.period.1)
    }
}

/// A caller's limit after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitStatus {
    pub limit: RateLimit,
    /// Calls that are left now.
    pub remaining: u32,
    /// Seconds until the bucket is full again.
    pub reset: u32,
    /// Seconds to wait, if this call was over the limit.
    pub retry_after: Option<u32>,
}

/// The buckets of all callers of one kind.
pub struct Limiter<K: Hash + Eq + Clone> {
    limit: RateLimit,
    buckets: RateLimiter<K, DashMapStateStore<K>, Time, StateInformationMiddleware>,
    checks: AtomicU32,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// `None` for a limit of zero, which a [`RateLimit`] can't be.
    #[must_use]
    pub fn new(limit: RateLimit, clock: &Clock) -> Option<Self> {
        let quota = Quota::with_period(limit.interval())?.allow_burst(limit.calls);
        let time = match clock {
            Clock::System => Time::Machine(Instant::now()),
            Clock::Manual(_) => Time::Manual(clock.clone()),
        };
        Some(Self {
            limit,
            buckets: RateLimiter::new(quota, DashMapStateStore::default(), time),
            checks: AtomicU32::new(0),
        })
    }

    /// Takes one call out of the caller's bucket.
    pub fn check(&self, caller: &K) -> RateLimitStatus {
        self.check_many(caller, NonZeroU32::MIN)
    }

    /// Takes `calls` out of the caller's bucket, or none if there are fewer. More than the bucket's size never succeed; check
    /// that before.
    pub fn check_many(&self, caller: &K, calls: NonZeroU32) -> RateLimitStatus {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
        }
        let (remaining, wait) = match self.buckets.check_key_n(caller, calls) {
            Ok(Ok(state)) => (state.remaining_burst_capacity(), None),
            Ok(Err(until)) => (0, Some(until.wait_time_from(self.buckets.clock().now()))),
            Err(_) => (0, Some(Duration::from_secs(self.limit.seconds().into()))),
        };
        let missing = self.limit.calls().saturating_sub(remaining);
        RateLimitStatus {
            limit: self.limit,
            remaining,
            reset: whole_seconds(self.limit.interval() * missing),
            retry_after: wait.map(whole_seconds),
        }
    }

    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }
}

/// Rounded up, so that a caller who waits that long has waited long enough.
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000_000))
        .unwrap_or(u32::MAX)
        .max(1)
}

/// The time for refilling. It is monotonic, so that setting the machine's clock does not change it.
#[derive(Debug, Clone)]
enum Time {
    Machine(Instant),
    Manual(Clock),
}

impl governor::clock::Clock for Time {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let nanos = match self {
            Self::Machine(start) => u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Self::Manual(clock) => u64::try_from(clock.now().timestamp_micros()).unwrap_or(0) * 1000,
        };
        Nanos::from(nanos)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    #[test]
    fn a_limit_is_calls_per_period() {
        for text in ["1/s", "600/m", "1000000/h"] {
            assert_eq!(text.parse::<RateLimit>().unwrap().to_string(), text);
        }
        for wrong in ["", "600", "600/d", "0/m", "-1/m", "/m", "1000001/m", "600/", "1/m/s"] {
            assert!(wrong.parse::<RateLimit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bucket_empties_refills_with_time_and_is_forgotten_when_full() {
        let clock = Clock::manual(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        let limiter = Limiter::new("3/m".parse().unwrap(), &clock).unwrap();
        let remaining = |caller| limiter.check(&caller).remaining;
        assert_eq!([remaining(1), remaining(1), remaining(1)], [2, 1, 0]);
        let refused = limiter.check(&1);
        assert_eq!(
            (refused.remaining, refused.retry_after, refused.reset),
            (0, Some(20), 60)
        );
        assert_eq!(remaining(2), 2, "another caller has another bucket");
        let many = |calls| limiter.check_many(&3, NonZeroU32::new(calls).unwrap());
        assert_eq!(many(2).remaining, 1);
        assert_eq!(many(2).retry_after, Some(20), "one is missing, and none was taken");
        assert_eq!(many(1).retry_after, None);
        assert_eq!(many(4).retry_after, Some(60), "more than there ever are");
        clock.advance(TimeDelta::seconds(20));
        assert_eq!(limiter.check(&1).retry_after, None);
        assert!(limiter.check(&1).retry_after.is_some());
        for caller in 10..10_000 {
            clock.advance(TimeDelta::milliseconds(100));
            limiter.check(&caller);
        }
        assert!(limiter.buckets.len() < 5000, "{}", limiter.buckets.len());
    }
}
