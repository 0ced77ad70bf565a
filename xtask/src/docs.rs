//! `cargo xtask docs`: the pages of `deploy/docs` that are written from the code.
//!
//! The agent's test `documents` writes or compares them, because it has the definitions.

use anyhow::Result;

use crate::{cargo, lint, process, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only check: fail if a page is not current, or a document has a broken link
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut cargo = cargo::command(&["test", "--test=documents"])?;
    if !args.check {
        cargo.env("SOCKLINE_WRITE_DOCUMENTS", "1");
    }
    process::run(&mut cargo)?;
    lint::documents()
}
