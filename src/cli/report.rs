//! Output of commands: tables for people, JSON for programs, and confirmations.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anstream::{eprint, println};
use anyhow::bail;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;

use super::paint::{FAINT, STRONG, paint};
use crate::clock::parse_duration;
use crate::fields::FieldError;

pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a table. Each column is as wide as its longest cell.
pub(super) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) {
    let mut widths = heads.map(|head| head.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| -> String {
        let padded: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    println!("{}", paint(STRONG, line(heads)));
    for row in rows {
        println!("{}", line(row.each_ref().map(String::as_str)));
    }
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

/// `5 min ago` or `in 5 min`.
pub(super) fn distance(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
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

/// Shortens a text to one line of a table.
pub(super) fn short(text: &str) -> String {
    const MAX_BATCH_SIZE: usize = 80;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(MAX_BATCH_SIZE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
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

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(short("one\ntwo"), "one");
        assert_eq!(short(&"é".repeat(81)), format!("{}…", "é".repeat(80)));
    }
}
