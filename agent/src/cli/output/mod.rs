//! Printing tables and JSON.
//!
//! All subcommands print through it. [`units`] and [`live`] know no subcommand; [`table`] replaces control characters in
//! every cell, because names come from other sources.

pub mod live;
pub mod table;
pub mod units;

use std::fmt::Display;

use clap::ValueEnum;

/// How to print something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

/// How to print a list that has more columns than usually fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ListOutput {
    #[default]
    Table,
    /// A table with more columns
    Wide,
    Json,
}

/// Prints a line to stderr. Unlike `eprintln!` it does not panic if stderr is closed (`2>&1 | head`).
pub fn print_error(line: impl Display) {
    use std::io::{self, Write as _};
    // There is no other place to report it.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints to stdout. A reader that closes the pipe early (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::{self, Write as _};
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
