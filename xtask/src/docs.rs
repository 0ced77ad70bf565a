//! `cargo xtask docs`: the pages of `deploy/docs` that are written from the code.
//!
//! The test `documents` of the agent, which knows the definitions, writes them or compares them.

use anyhow::Result;

use crate::{lint, process, repo, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing: fail where a page is not current, or a document has a broken link
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut cargo = repo::cargo(&["test", "--test=documents"])?;
    cargo.args(repo::WORKSPACE);
    if !args.check {
        cargo.env("SOCKLINE_WRITE_DOCUMENTS", "1");
    }
    process::run(&mut cargo)?;
    lint::documents()
}
