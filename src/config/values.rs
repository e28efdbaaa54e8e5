//! Parsing of single values: durations, limits, lists, addresses.

use crate::clock::parse_duration;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use url::Url;

use super::Environment;
use super::error::{ConfigError, wrong};
use crate::rate_limit::RateLimit;
use crate::secret::Secret;
use crate::store::Connections;

/// Ten years, so that a time that long ago is always in range.
const MAX_AGE: TimeDelta = TimeDelta::days(3650);

pub(super) fn age(variable: &'static str, given: Option<&str>, default: &str) -> Result<TimeDelta, ConfigError> {
    parse_duration(given.unwrap_or(default))
        .filter(|age| *age <= MAX_AGE)
        .ok_or_else(|| wrong(variable, "must be an age such as 90m, 36h or 7d, at most 3650d"))
}

/// No known orchestrator waits longer for a process to stop.
const MAX_DRAIN: Duration = Duration::from_secs(300);

pub(super) fn drain_time(environment: Environment, given: Option<&str>) -> Result<Duration, ConfigError> {
    let (number, unit) = match given {
        None if environment == Environment::Production => (5, 1),
        None | Some("off") => (0, 1),
        Some(text) => match (text.strip_suffix('s'), text.strip_suffix('m')) {
            (Some(seconds), _) => (seconds.parse().unwrap_or(u64::MAX), 1),
            (_, Some(minutes)) => (minutes.parse().unwrap_or(u64::MAX), 60),
            (None, None) => (u64::MAX, 1),
        },
    };
    Some(Duration::from_secs(number.saturating_mul(unit)))
        .filter(|time| *time <= MAX_DRAIN)
        .ok_or_else(|| wrong("USHER_DRAIN_TIME", "must be a duration such as 10s, at most 5m, or off"))
}

pub(super) fn max_connections(given: Option<&str>) -> Result<usize, ConfigError> {
    const VARIABLE: &str = "USHER_MAX_CONNECTIONS";
    let number = given.unwrap_or("16384").parse().ok();
    number
        .filter(|number| (1..=1_000_000).contains(number))
        .ok_or_else(|| wrong(VARIABLE, "must be a number from 1 to 1000000"))
}

pub(super) fn database_connections(given: Option<&str>) -> Result<Connections, ConfigError> {
    let Some(text) = given else {
        return Ok(Connections::default());
    };
    let number = text.parse().ok().and_then(Connections::new);
    let must = format!("must be a number from {} to {}", Connections::LEAST, Connections::MOST);
    number.ok_or_else(|| wrong("USHER_DATABASE_CONNECTIONS", must))
}

pub(super) fn shown_drain_time(time: Duration) -> String {
    match time.as_secs() {
        0 => "off".to_owned(),
        seconds => format!("{seconds}s"),
    }
}

pub(super) fn rate_limit(
    variable: &'static str,
    given: Option<&str>,
    default: &str,
) -> Result<Option<RateLimit>, ConfigError> {
    match given.unwrap_or(default) {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|problem: &str| wrong(variable, problem)),
    }
}

pub(super) fn number_or_off(
    variable: &'static str,
    given: Option<&str>,
    default: Option<NonZeroU32>,
) -> Result<Option<NonZeroU32>, ConfigError> {
    match given {
        None => Ok(default),
        Some("off") => Ok(None),
        Some(text) => match text.parse::<NonZeroU32>() {
            // The counter is a 32-bit column.
            Ok(number) if i32::try_from(number.get()).is_ok() => Ok(Some(number)),
            _ => Err(wrong(variable, "must be a number from 1 on, or off")),
        },
    }
}

pub(super) fn shown_number(number: Option<NonZeroU32>) -> String {
    number.map_or_else(|| "off".to_owned(), |number| number.to_string())
}

pub(super) fn shown_age(age: TimeDelta) -> String {
    format!("{}m", age.num_minutes())
}

pub(super) fn shown_limit(limit: Option<RateLimit>) -> String {
    limit.map_or_else(|| "off".to_owned(), |limit| limit.to_string())
}

pub(super) fn list(text: Option<&str>) -> Vec<String> {
    let items = text.unwrap_or_default().split(',').map(str::trim);
    items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

pub(super) fn non_empty(variable: &'static str, secret: Option<Secret>) -> Result<Option<Secret>, ConfigError> {
    match secret {
        Some(secret) if secret.expose().trim().is_empty() => Err(wrong(variable, "is empty; set it or leave it out")),
        secret => Ok(secret),
    }
}

pub(super) fn address(variable: &'static str, given: Option<&str>, default: &str) -> Result<SocketAddr, ConfigError> {
    given
        .unwrap_or(default)
        .parse()
        .map_err(|_| wrong(variable, "must be an address and a port such as 127.0.0.1:8080"))
}

pub(super) fn url(variable: &'static str, text: &str) -> Result<Url, ConfigError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| wrong(variable, "must be an http:// or https:// address"))
}

pub(super) fn parsed<T: FromStr<Err = String> + Default>(
    variable: &'static str,
    given: Option<&str>,
) -> Result<T, ConfigError> {
    given.map_or_else(
        || Ok(T::default()),
        |text| text.parse().map_err(|problem: String| wrong(variable, problem)),
    )
}
