//! `cargo xtask lint architecture`: holds the paths in the code to the table in `ARCHITECTURE.md`.
//!
//! [`modules`] reads the modules of the workspace, [`paths`] the paths in them, [`resolve`] finds the module that a
//! path leads to, [`table`] reads the rules, and [`rules`] compares. Code under `#[cfg(test)]` may use
//! anything. Modules are named by their files: `agent/src/model/index.rs` is `agent/model/index`.

mod modules;
mod paths;
mod resolve;
mod rules;
mod table;

use std::fs;

use anyhow::{Context as _, Result, bail};

use self::{modules::Workspace, table::Table};
use crate::{cargo, repo, term};

const DOCUMENT: &str = "ARCHITECTURE.md";

pub(super) fn run() -> Result<()> {
    let text = fs::read_to_string(repo::root().join(DOCUMENT))
        .with_context(|| format!("reading {DOCUMENT}"))?;
    let table = Table::parse(&text, DOCUMENT)?;
    let workspace = Workspace::read(repo::root(), &cargo::metadata()?)?;
    let uses = resolve::uses(&workspace);
    let problems = rules::check(&table, &workspace.files(), &uses);
    if problems.is_empty() {
        let (files, rules) = (workspace.files().len(), table.rules.len());
        term::ok("architecture", &format!("{files} files keep to the {rules} rules of {DOCUMENT}"));
        return Ok(());
    }
    for problem in &problems {
        println!("{problem}");
    }
    bail!("{} violations of the table in {DOCUMENT}", problems.len());
}

#[cfg(test)]
mod tests;
