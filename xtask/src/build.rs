//! `cargo xtask build`: the agent, and inside of it the kernel programs.

use anyhow::Result;

use crate::{process, repo, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build what is shipped: optimised
    #[arg(long)]
    release: bool,
}

impl Args {
    /// The build that tests and the demo run.
    pub(crate) fn debug() -> Self {
        Self { release: false }
    }

    /// What is shipped.
    pub(crate) fn release() -> Self {
        Self { release: true }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut cargo = repo::cargo(&["build", "--package", "sockline"])?;
    if args.release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)
}
