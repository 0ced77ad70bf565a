//! The command line: one subcommand per file.

pub mod agent;
pub mod backends;
pub mod check;
pub mod cleanup;
pub mod duration;
pub mod environment;
pub mod helper;
mod node;
pub mod output;
pub mod plan;
pub mod services;
pub mod status;
pub mod table;
