//! cargo-deny, in the pinned version.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::database::{Database, URL};
use crate::{process, repo, term};

/// The newest one that the pinned compiler takes.
const VERSION: &str = "0.20.2";

/// Finds it, or builds it: it works for seconds, so optimising it would take longer than it saves.
pub(super) fn ensure() -> Result<()> {
    let found = process::output(&mut repo::cargo(&["deny", "--version"])?);
    if found.is_ok_and(|version| version.ends_with(VERSION)) {
        return Ok(());
    }
    term::doing("cargo-deny", "compiling it takes about two minutes");
    let args = [
        "install",
        "cargo-deny",
        "--version",
        VERSION,
        "--locked",
        "--debug",
        "--force",
        "--quiet",
    ];
    process::run(repo::cargo(&args)?.env("CARGO_PROFILE_DEV_DEBUG", "false"))
        .context("cargo needs its package registry for this step: is there a network?")
}

/// One call of it.
pub(super) struct Deny(Command);

impl Deny {
    /// With a database, on the workspace.
    pub(super) fn new(database: &Database) -> Result<Self> {
        let mut deny = repo::cargo(&["deny", "--config"])?;
        deny.arg(repo::root().join("xtask/src/audit/deny.toml"))
            .env("SOCKLINE_ADVISORIES", &database.clones);
        if let Some(source) = &database.source {
            deny.env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", format!("url.{source}.insteadOf"))
                .env("GIT_CONFIG_VALUE_0", URL);
        }
        Ok(Self(deny))
    }

    /// On another crate.
    pub(super) fn of(mut self, manifest: &Path) -> Self {
        self.0.arg("--manifest-path").arg(manifest);
        self
    }

    pub(super) fn check(mut self, which: &[&str]) -> Result<()> {
        process::run(self.0.args(["check", "--hide-inclusion-graph"]).args(which))
    }

    /// What it says against something that it must not let pass.
    pub(super) fn refusal(mut self, which: &[&str]) -> Result<String> {
        match process::output(self.0.args(["check", "--hide-inclusion-graph"]).args(which)) {
            Err(error) => Ok(format!("{error:#}")),
            Ok(said) => {
                bail!("cargo-deny let pass what it must refuse ({}): {said}", which.join(" "))
            }
        }
    }
}
