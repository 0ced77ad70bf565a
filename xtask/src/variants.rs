//! Other builds of the agent, for tests of upgrades: one of another layout, one with other programs
//! for the same layout.
//!
//! They differ by features of the agent and the kernel side, so they are built into the folder of the
//! agent itself, whose dependencies they share, and copied from there.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{process, repo};

/// Name, and the feature that makes it what it is.
const VARIANTS: [(&str, &str); 2] =
    [("other-layout", "test-layout"), ("other-build", "test-build")];

/// Builds them, and last the agent itself, which then is where everybody looks for it.
pub(crate) fn build() -> Result<()> {
    let profile = repo::target_dir().join("debug");
    let folder = profile.join("variants");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, feature) in VARIANTS {
        let mut cargo = repo::cargo_as_for_tests()?;
        process::run(cargo.args(["--bin=sockline", "--features", &format!("sockline/{feature}")]))?;
        let place = folder.join(format!("sockline-{name}"));
        copy(&profile.join("sockline"), &place)
            .with_context(|| format!("copying the agent to {}", place.display()))?;
    }
    build_agent()
}

/// Builds the agent as the tests look for it.
pub(crate) fn build_agent() -> Result<()> {
    process::run(repo::cargo_as_for_tests()?.arg("--bin=sockline"))
}

/// In one step: what is there may be running.
fn copy(from: &PathBuf, to: &PathBuf) -> std::io::Result<()> {
    let beside = to.with_extension("new");
    fs::copy(from, &beside)?;
    fs::rename(beside, to)
}
