//! The log filter: as configured, but never with personal data.

use std::fmt;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, FilterFn, filter_fn};

/// The default. It silences crates whose messages repeat ours or show SQL.
const DEFAULT: &str = "info,sqlx=warn,apalis=warn,apalis_core=warn,rustls_platform_verifier=off";

/// Crates whose debug lines were reviewed: they show how something is done, without the data. Debug lines of all other
/// crates are dropped, whatever the filter says: the template engine, for example, prints the names and messages of
/// mails.
const LOOKED_THROUGH: &[&str] = &[
    "apalis",
    "apalis_core",
    "apalis_postgres",
    "apalis_sqlite",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "reqwest",
    "rustls",
    "sqlx",
    "sqlx_core",
    "sqlx_postgres",
    "sqlx_sqlite",
    "usher",
];

/// A log filter in the syntax of `tracing`: a level, or `target=level`, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The configured filter, or the default.
    #[must_use]
    pub fn or_default(filter: Option<&Self>) -> EnvFilter {
        EnvFilter::new(filter.map_or(DEFAULT, |filter| &filter.0))
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        match parts.iter().find(|part| !is_readable(part)) {
            Some(part) => Err(format!(
                "can't be read at {part:?}; write a level (error, warn, info, debug, trace or off) or target=level, such \
                 as info,usher::api=debug"
            )),
            None if parts.is_empty() => Err("says nothing; write a level, such as info".to_owned()),
            None => Ok(Self(parts.join(","))),
        }
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A single word would count as a target, and only that target would be logged: it is most likely a misspelt level.
fn is_readable(part: &str) -> bool {
    let is_word = !part.contains(['=', '[']);
    let target = part.split(['=', '[']).next().unwrap_or_default();
    let is_known = || LOOKED_THROUGH.contains(&target.split("::").next().unwrap_or_default());
    if is_word && part.parse::<LevelFilter>().is_err() && !is_known() {
        return false;
    }
    !target.contains(char::is_whitespace) && !part.ends_with('=') && part.parse::<Directive>().is_ok()
}

/// Drops the debug lines of other crates that might contain personal data.
pub(super) fn without_contents() -> FilterFn {
    filter_fn(shows_no_contents)
}

fn shows_no_contents(line: &Metadata<'_>) -> bool {
    let of = line.target().split("::").next().unwrap_or_default();
    *line.level() <= Level::INFO || LOOKED_THROUGH.contains(&of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_as_a_whole_or_not_at_all() {
        for text in [
            "info",
            "WARN",
            "usher",
            "usher::api",
            "sqlx=debug",
            "info, usher::api=debug ,",
            "my_own_target=trace",
            "usher[request{id=1}]=debug",
            "off",
        ] {
            assert!(text.parse::<LogFilter>().is_ok(), "{text}");
        }
        for (text, part) in [
            ("usher=loud", "usher=loud"),
            ("info,usher=loud,sqlx=warn", "usher=loud"),
            ("loud", "loud"),
            ("warning", "warning"),
            ("verbose,usher=info", "verbose"),
            ("usher=", "usher="),
            ("usher =debug", "usher =debug"),
            ("usher:debug", "usher:debug"),
            ("info usher=debug", "info usher=debug"),
            ("=debug", "=debug"),
            ("usher==debug", "usher==debug"),
            ("usher[=debug", "usher[=debug"),
        ] {
            let said = text.parse::<LogFilter>().unwrap_err();
            assert!(said.contains(&format!("{part:?}")), "{text}: {said}");
        }
        assert!(" , ".parse::<LogFilter>().is_err());
    }
}
