//! `cargo xtask build`: the agent with its kernel programs.

use std::path::PathBuf;

use anyhow::Result;

use crate::{cargo, process, setup, variants};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build the optimised agent, as it is shipped
    #[arg(long, conflicts_with = "variants")]
    release: bool,
    /// Also build the agents that tests upgrade to: one with another layout of the maps, and one with other
    /// kernel programs
    #[arg(long)]
    variants: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    if args.variants {
        return variants::build();
    }
    let mut build = cargo::command(&["build", "--package", "sockline"])?;
    if args.release {
        build.arg("--release");
    }
    process::run(&mut build)
}

/// Builds the agent as the tests have it, and returns where it is.
pub(crate) fn debug() -> Result<PathBuf> {
    setup::ensure()?;
    variants::build_agent()
}

/// Builds the agent as it is shipped, and returns where it is.
pub(crate) fn release() -> Result<PathBuf> {
    setup::ensure()?;
    cargo::program(
        &mut cargo::command(&["build", "--package", "sockline", "--release"])?,
        "sockline",
    )
}
