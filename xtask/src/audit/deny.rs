//! cargo-deny, in the pinned version.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::database::{Database, URL};
use crate::{cargo, process, repo, term};

/// The newest version that the pinned compiler builds.
const VERSION: &str = "0.20.2";

/// Finds it, or builds it. It runs for seconds, so an optimised build would take longer than it saves.
pub(super) fn ensure() -> Result<()> {
    let found = process::output(&mut cargo::command(&["deny", "--version"])?);
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
    process::run(cargo::command(&args)?.env("CARGO_PROFILE_DEV_DEBUG", "false"))
        .context("cargo needs its package registry for this step: is there a network?")
}

/// A call of cargo-deny.
pub(super) struct Deny(Command);

impl Deny {
    /// About the workspace, with a database.
    pub(super) fn new(database: &Database) -> Result<Self> {
        let mut deny = cargo::command(&["deny", "--config"])?;
        deny.arg(repo::root().join("xtask/src/audit/deny.toml"))
            .env("SOCKLINE_ADVISORIES", &database.clones);
        if let Some(source) = &database.source {
            deny.env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", format!("url.{source}.insteadOf"))
                .env("GIT_CONFIG_VALUE_0", URL);
        }
        Ok(Self(deny))
    }

    /// About another crate.
    pub(super) fn of(mut self, manifest: &Path) -> Self {
        self.0.arg("--manifest-path").arg(manifest);
        self
    }

    pub(super) fn check(mut self, which: &[&str]) -> Result<()> {
        process::run(self.0.args(["check", "--hide-inclusion-graph"]).args(which))
    }

    /// What it says when it refuses, which it must.
    pub(super) fn refusal(mut self, which: &[&str]) -> Result<String> {
        match process::output(self.0.args(["check", "--hide-inclusion-graph"]).args(which)) {
            Err(error) => Ok(format!("{error:#}")),
            Ok(said) => {
                bail!("cargo-deny accepted what it must refuse ({}): {said}", which.join(" "))
            }
        }
    }
}
