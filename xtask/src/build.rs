//! `cargo xtask build`: the agent, and inside of it the kernel programs.

use anyhow::Result;

use crate::{process, repo, setup, variants};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build what is shipped: optimised
    #[arg(long, conflicts_with = "variants")]
    release: bool,
    /// Also build what tests upgrade to: an agent of another layout of the maps, and one with other
    /// kernel programs
    #[arg(long)]
    variants: bool,
}

impl Args {
    /// The build that tests and the demo run.
    pub(crate) fn debug() -> Self {
        Self { release: false, variants: false }
    }

    /// What is shipped.
    pub(crate) fn release() -> Self {
        Self { release: true, variants: false }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    if args.variants {
        return variants::build();
    }
    let mut cargo = repo::cargo(&["build", "--package", "sockline"])?;
    if args.release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)
}
