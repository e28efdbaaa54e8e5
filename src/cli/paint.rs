//! Colours for what people read. They vanish where standard output is no terminal, and where `NO_COLOR` says so: print
//! with `anstream`.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
use reqwest::StatusCode;

/// What matters less.
pub(super) const FAINT: Style = Style::new().dimmed();
/// What matters more.
pub(super) const STRONG: Style = Style::new().bold();

/// Text in one of the terminal's own colours.
pub(super) const fn colour(colour: AnsiColor) -> Style {
    colour.on_default()
}

/// A text in a style.
pub(super) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// A status: green if all is well, red if not.
pub(super) fn status(status: StatusCode) -> String {
    let style = match status.as_u16() {
        200..=299 => colour(AnsiColor::Green),
        _ => colour(AnsiColor::Red),
    };
    paint(style, status.as_str())
}
