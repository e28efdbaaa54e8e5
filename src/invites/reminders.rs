//! When to remind people who have not answered: after fractions of the invite's validity period.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};

/// The minimum time between the invite and a reminder, and between a reminder and the expiry.
const GAP: TimeDelta = TimeDelta::hours(1);

/// How old an invite is before its reminders are planned: early enough for the first one, and late enough that invites
/// answered at once need none.
pub const PLAN_AFTER: TimeDelta = TimeDelta::minutes(30);

/// A fraction greater than zero and less than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fraction {
    part: i32,
    of: i32,
}

/// The fractions of the validity period after which reminders are sent, ascending; empty for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reminders(Vec<Fraction>);

impl Default for Reminders {
    /// After one third and two thirds.
    fn default() -> Self {
        Self(vec![Fraction { part: 1, of: 3 }, Fraction { part: 2, of: 3 }])
    }
}

impl Reminders {
    #[must_use]
    pub fn are_off(&self) -> bool {
        self.0.is_empty()
    }

    /// When the first reminder after `after` is due, in a validity period from `start` until `expires_at`.
    #[must_use]
    pub fn next(&self, start: DateTime<Utc>, expires_at: DateTime<Utc>, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let life = expires_at - start;
        self.0
            .iter()
            .map(|fraction| start + life / fraction.of * fraction.part)
            .find(|&at| at > after && at - start >= GAP && is_in_time(at, expires_at))
    }
}

/// Whether a reminder at `now` leaves time to answer.
#[must_use]
pub fn is_in_time(now: DateTime<Utc>, expires_at: DateTime<Utc>) -> bool {
    expires_at - now >= GAP
}

impl FromStr for Reminders {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "must be ascending fractions such as 1/3,2/3 (at most 5, with denominators to 100), or off";
        if text == "off" {
            return Ok(Self(Vec::new()));
        }
        let fraction = |text: &str| {
            let (part, of) = text.split_once('/')?;
            let (part, of) = (part.trim().parse().ok()?, of.trim().parse().ok()?);
            (0 < part && part < of && of <= 100).then_some(Fraction { part, of })
        };
        let fractions: Vec<Fraction> = text.split(',').map(fraction).collect::<Option<_>>().ok_or(FORM)?;
        let is_ascending = fractions.is_sorted_by(|a, b| a.part * b.of < b.part * a.of);
        if is_ascending && fractions.len() <= 5 {
            Ok(Self(fractions))
        } else {
            Err(FORM)
        }
    }
}

impl fmt::Display for Reminders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("off");
        }
        let fractions: Vec<_> = self
            .0
            .iter()
            .map(|Fraction { part, of }| format!("{part}/{of}"))
            .collect();
        f.write_str(&fractions.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::hours(hours)
    }

    #[test]
    fn reminders_come_at_their_parts_of_a_life_and_never_right_before_its_end() {
        let thirds = "1/3,2/3";
        // Reminders, validity in hours, hours since the start, the next reminder.
        let cases = [
            (thirds, 168, 0, Some(56)),
            (thirds, 168, 55, Some(56)),
            (thirds, 168, 56, Some(112)),
            (thirds, 168, 112, None),
            (thirds, 168, 500, None),
            (thirds, 3, 0, Some(1)),
            (thirds, 3, 1, Some(2)),
            (thirds, 2, 0, None),
            (thirds, 1, 0, None),
            ("1/100", 24, 0, None),
            ("1/2,99/100", 24, 12, None),
            ("1/2", 24, 0, Some(12)),
            ("off", 168, 0, None),
        ];
        for (reminders, life, since, expected) in cases {
            let reminders: Reminders = reminders.parse().unwrap();
            let next = reminders.next(at(0), at(life), at(since));
            assert_eq!(next, expected.map(at), "{reminders} of {life} h after {since} h");
        }
    }

    #[test]
    fn reminders_are_ascending_fractions() {
        for text in ["1/3,2/3", "1/2", "off", "1/5,2/5,3/5,4/5,99/100"] {
            assert_eq!(text.parse::<Reminders>().unwrap().to_string(), text);
        }
        assert_eq!(Reminders::default(), "1/3, 2/3".parse().unwrap());
        for wrong in [
            "",
            "0/3",
            "3/3",
            "1/0",
            "1",
            "2/3,1/3",
            "1/2,2/4",
            "1/101",
            "-1/2",
            "1/7,2/7,3/7,4/7,5/7,6/7",
        ] {
            assert!(wrong.parse::<Reminders>().is_err(), "{wrong}");
        }
    }
}
