//! The only source of time and of new ids. It is passed as an argument, so that tests can move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use uuid::{NoContext, Timestamp, Uuid};

#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Moves only by [`Clock::advance`]. Microseconds since the Unix epoch.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    #[must_use]
    pub fn manual(start: DateTime<Utc>) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.timestamp_micros())))
    }

    /// Now, in whole microseconds: Postgres stores no more, and a stored time must compare equal.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        match self {
            #[expect(clippy::disallowed_methods, reason = "this is the clock")]
            Self::System => Utc::now().trunc_subsecs(6),
            Self::Manual(micros) => DateTime::from_timestamp_micros(micros.load(Ordering::SeqCst)).unwrap_or_default(),
        }
    }

    /// Moves a manual clock. Does nothing to the system's.
    pub fn advance(&self, by: TimeDelta) {
        if let Self::Manual(micros) = self {
            micros.fetch_add(by.num_microseconds().unwrap_or(0), Ordering::SeqCst);
        }
    }

    /// A new UUIDv7. These are sorted by time, so indexes grow at their end.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        let now = self.now();
        let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
        Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, now.timestamp_subsec_nanos()))
    }
}

/// `5 min ago` or `in 5 min`.
#[must_use]
pub fn distance(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let away = now - at;
    let size = away.abs();
    let (number, unit) = match size {
        _ if size < TimeDelta::minutes(2) => (size.num_seconds(), "s"),
        _ if size < TimeDelta::hours(2) => (size.num_minutes(), "min"),
        _ if size < TimeDelta::days(2) => (size.num_hours(), "h"),
        _ => (size.num_days(), "d"),
    };
    if away < TimeDelta::zero() {
        format!("in {number} {unit}")
    } else {
        format!("{number} {unit} ago")
    }
}

/// Reads `90m`, `36h` or `7d`: whole minutes, hours or days, at least one.
#[must_use]
pub fn parse_duration(text: &str) -> Option<TimeDelta> {
    let unit = text.chars().last()?;
    let digits = text
        .strip_suffix(unit)
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    let number: i64 = digits.parse().ok().filter(|&n| n > 0)?;
    match unit {
        'm' => TimeDelta::try_minutes(number),
        'h' => TimeDelta::try_hours(number),
        'd' => TimeDelta::try_days(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_told_in_the_unit_that_fits() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        for (seconds, expected) in [
            (0, "0 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7200, "2 h ago"),
            (172_800, "2 d ago"),
            (-600, "in 10 min"),
        ] {
            assert_eq!(distance(now - TimeDelta::seconds(seconds), now), expected);
        }
    }
}
