//! Output of commands: tables for people, JSON for programs, and confirmations.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anstream::eprint;
use anyhow::bail;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::paint::{FAINT, paint};
pub(super) use super::table::table;
pub(super) use crate::clock::distance;
use crate::clock::parse_duration;
use crate::fields::FieldError;

pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Says that the list is not complete.
pub(super) fn more(shown: usize, limit: u32) {
    if u32::try_from(shown).is_ok_and(|shown| shown == limit) {
        println!("{}", paint(FAINT, format!("… the newest {limit}; --limit shows more")));
    }
}

pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// All that is wrong with what was given, one line each, by the names of the options; `argument` has none.
pub(super) fn field_errors(errors: &[FieldError], argument: Option<&str>) -> anyhow::Error {
    let lines = errors.iter().map(|error| {
        let option = match error.name() {
            name if argument == Some(name) => format!("<{}>", name.to_uppercase()),
            "organization_id" => "--organization".to_owned(),
            "project_id" => "--project".to_owned(),
            name => format!("--{}", name.replace('_', "-")),
        };
        format!("{option} {}", error.detail)
    });
    anyhow::anyhow!("{}", lines.collect::<Vec<_>>().join("\n"))
}

pub(super) fn age(text: &str) -> Result<TimeDelta, String> {
    parse_duration(text).ok_or_else(|| "must be an age such as 90m, 36h or 7d".to_owned())
}

/// The progress of work on many, for a terminal.
pub(super) fn progress(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len}, {eta} left");
    let bar = ProgressBar::new(total);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Asks for confirmation. Without a terminal, `--yes` is required.
pub(super) fn confirm(what: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("nothing was changed: add --yes to {what}");
    }
    eprint!("{what}? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if !answer.trim().eq_ignore_ascii_case("y") {
        bail!("nothing was changed");
    }
    Ok(())
}
