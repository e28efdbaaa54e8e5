//! Colours. Print with `anstream`, which removes them if standard output is not a terminal or `NO_COLOR` is set.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
use reqwest::StatusCode;

pub(super) const FAINT: Style = Style::new().dimmed();
pub(super) const STRONG: Style = Style::new().bold();

pub(super) const fn colour(colour: AnsiColor) -> Style {
    colour.on_default()
}

pub(super) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// A status: green for success, red for errors.
pub(super) fn status(status: StatusCode) -> String {
    let style = match status.as_u16() {
        200..=299 => colour(AnsiColor::Green),
        _ => colour(AnsiColor::Red),
    };
    paint(style, status.as_str())
}
