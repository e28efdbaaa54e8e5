//! The back-off of failed jobs: apalis would run them again at once (APALIS trap 6).

use chrono::TimeDelta;

/// Seconds before the second attempt.
const FIRST: f64 = 10.0;
/// The maximum in seconds.
const CAP: f64 = 3600.0;
/// The wait varies by this fraction in both directions, so that jobs that failed together are not retried together.
const JITTER: f64 = 0.2;

/// The wait after attempt number `attempt`, counted from 1; `chance` is a random number from 0 to 1.
pub(crate) fn wait_after(attempt: u32, chance: f64) -> TimeDelta {
    let doublings = attempt.saturating_sub(1).min(16);
    let seconds = (FIRST * 2_f64.powi(i32::try_from(doublings).unwrap_or(16))).min(CAP);
    let varied = seconds * (1.0 - JITTER + 2.0 * JITTER * chance);
    TimeDelta::milliseconds((varied * 1000.0) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Queue;

    #[test]
    fn waits_double_from_ten_seconds_to_an_hour() {
        let waits: Vec<i64> = (1..=11).map(|attempt| wait_after(attempt, 0.5).num_seconds()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        assert_eq!(wait_after(u32::MAX, 0.5).num_seconds(), 3600);
    }

    #[test]
    fn waits_vary_by_a_fifth() {
        assert_eq!(wait_after(1, 0.0).num_seconds(), 8);
        assert_eq!(wait_after(1, 1.0).num_seconds(), 12);
    }

    #[test]
    fn attempts_outlive_two_days_of_outage_even_with_bad_luck() {
        let attempts = u32::try_from(Queue::MAX_ATTEMPTS).unwrap();
        let total: TimeDelta = (1..attempts).map(|attempt| wait_after(attempt, 0.0)).sum();
        assert!(total > TimeDelta::hours(41), "{total}");
        let usual: TimeDelta = (1..attempts).map(|attempt| wait_after(attempt, 0.5)).sum();
        assert!(usual > TimeDelta::days(2), "{usual}");
    }
}
