//! The test binaries that cargo builds.

use std::path::PathBuf;

use anyhow::{Result, bail};
use cargo_metadata::Artifact;

use crate::cargo;

/// A test binary.
pub(crate) struct Binary {
    /// The name of its target: `restart`, `sockline`.
    pub(crate) name: String,
    /// Whether it is a file of `tests/`; the others are unit tests.
    pub(crate) is_integration: bool,
    pub(crate) path: PathBuf,
    /// The package's folder, in which cargo would run it.
    pub(crate) package: PathBuf,
}

/// Builds the workspace's tests: all, or those that further arguments of cargo select.
pub(crate) fn build(args: &[&str]) -> Result<Vec<Binary>> {
    let artifacts = cargo::artifacts(cargo::command(&["test", "--no-run"])?.args(args))?;
    let binaries: Vec<Binary> = artifacts.into_iter().filter_map(Binary::of).collect();
    if binaries.is_empty() {
        bail!("cargo built no tests");
    }
    Ok(binaries)
}

impl Binary {
    /// `None` for what is not a test.
    fn of(artifact: Artifact) -> Option<Self> {
        if !artifact.profile.test {
            return None;
        }
        Some(Self {
            is_integration: artifact.target.is_test(),
            path: artifact.executable?.into(),
            package: artifact.manifest_path.parent()?.into(),
            name: artifact.target.name,
        })
    }
}
