//! The demo's output: who saw what, and when.

use std::fmt::Display;
use std::time::Instant;

use anstyle::{AnsiColor, Style};

use crate::cli::paint::{FAINT, STRONG, colour, paint};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Party {
    /// Sends events.
    Clerk,
    /// Invites, and lists members.
    App,
    /// Gets a mail, signs up or in, sees the banner.
    Invitee,
    /// Gets the notice.
    Inviter,
    /// Pretends to be Clerk.
    Forger,
    /// Checks `/readyz`.
    Ops,
}

impl Party {
    fn name(self) -> &'static str {
        match self {
            Self::Clerk => "Clerk",
            Self::App => "app",
            Self::Invitee => "invitee",
            Self::Inviter => "inviter",
            Self::Forger => "forger",
            Self::Ops => "ops",
        }
    }

    fn style(self) -> Style {
        colour(match self {
            Self::Clerk => AnsiColor::Magenta,
            Self::App => AnsiColor::Cyan,
            Self::Invitee => AnsiColor::Green,
            Self::Inviter => AnsiColor::Yellow,
            Self::Forger => AnsiColor::Red,
            Self::Ops => AnsiColor::Blue,
        })
    }
}

pub(super) fn title(title: &str) {
    println!("\n{}", paint(STRONG, title));
}

/// Prints each line as it happens.
#[derive(Debug)]
pub(super) struct Timeline {
    start: Instant,
}

impl Timeline {
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(super) fn line(&self, party: Party, saw: impl Display) {
        let time = format!("{:+.3}s", self.start.elapsed().as_secs_f64());
        let name = paint(party.style(), format!("{:7}", party.name()));
        println!("{}  {name} → {saw}", paint(FAINT, format!("{time:>8}")));
    }
}
