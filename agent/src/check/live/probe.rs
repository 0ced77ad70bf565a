//! The child process: moves to a cgroup and connects from there.

use std::{fs, io, path::Path};

use anyhow::Context as _;

use super::connects::{self, Request};

/// The hidden subcommand that runs this.
pub const COMMAND: &str = "check-probe";

/// Reads a request from standard input, moves this process to the cgroup if one is given, connects, and writes the
/// outcomes to standard output. Call it in the process's only thread: a socket belongs to the cgroup of the thread
/// that creates it.
///
/// # Errors
/// When it cannot move there, or the request cannot be read.
pub fn run(cgroup: Option<&Path>) -> anyhow::Result<()> {
    let request: Request =
        serde_json::from_reader(io::stdin().lock()).context("reading the request")?;
    if let Some(cgroup) = cgroup {
        fs::write(cgroup.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot move a process to {}", cgroup.display()))?;
    }
    let outcomes = connects::make(&request);
    serde_json::to_writer(io::stdout().lock(), &outcomes)?;
    Ok(())
}
