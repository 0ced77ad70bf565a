//! Other builds of the agent, for tests of upgrades: one with another layout of the maps, one with other
//! programs for the same layout.
//!
//! They differ by features of the agent and the kernel side. They are built into the agent's own folder,
//! because they share its dependencies, and copied from there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::cargo;

/// Names, and the feature of each.
const VARIANTS: [(&str, &str); 2] =
    [("other-layout", "test-layout"), ("other-build", "test-build")];

/// Builds them, and last the agent itself, so that this is what [`build_agent`] leaves in the target folder.
pub(crate) fn build() -> Result<()> {
    for (name, feature) in VARIANTS {
        let mut build = cargo::build_as_for_tests()?;
        build.args(["--bin=sockline", "--features", &format!("sockline/{feature}")]);
        let built = cargo::program(&mut build, "sockline")?;
        let folder = built.with_file_name("variants");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let place = folder.join(format!("sockline-{name}"));
        copy(&built, &place)
            .with_context(|| format!("copying the agent to {}", place.display()))?;
    }
    build_agent().map(drop)
}

/// Builds the agent where the testbed finds it, and returns where that is.
pub(crate) fn build_agent() -> Result<PathBuf> {
    cargo::program(cargo::build_as_for_tests()?.arg("--bin=sockline"), "sockline")
}

/// Replaces the file in one step: the old one may be running.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let beside = to.with_extension("new");
    fs::copy(from, &beside)?;
    fs::rename(beside, to)
}
