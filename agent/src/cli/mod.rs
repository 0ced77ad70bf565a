//! The command line: one subcommand per file.

pub mod plan;
pub mod table;
