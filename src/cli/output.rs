//! Standard output of commands. A reader that has seen enough, such as `head`, ends the command quietly; colours are for
//! terminals.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};
use std::process;

/// As the standard library's, which panics when the reader has gone. In scope in all commands.
macro_rules! println {
    () => { println!("") };
    ($($text:tt)*) => { $crate::cli::output::print_line(format_args!($($text)*)) };
}

pub(super) fn print_line(text: Arguments<'_>) {
    let mut output = anstream::stdout().lock();
    if let Err(error) = writeln!(output, "{text}") {
        if error.kind() == ErrorKind::BrokenPipe {
            process::exit(0);
        }
        eprintln!("could not write to standard output: {error}");
        process::exit(1);
    }
}
