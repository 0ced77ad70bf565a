//! `cargo xtask lint`: rules of this repository that neither the compiler nor clippy checks. Reads files and
//! builds nothing.

mod architecture;

use anyhow::Result;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Which lint to run [default: all]
    #[command(subcommand)]
    lint: Option<Lint>,
}

#[derive(clap::Subcommand, Clone, Copy)]
enum Lint {
    /// Compare which folder uses which with the table in ARCHITECTURE.md
    Architecture,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match args.lint {
        Some(Lint::Architecture) | None => architecture::run(),
    }
}
