//! Printing tables and JSON.

pub mod table;

use clap::ValueEnum;

/// How to print something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

/// Prints to stdout. A reader that closes the pipe early (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::{self, Write as _};
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
