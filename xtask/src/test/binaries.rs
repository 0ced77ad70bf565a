//! The test binaries that cargo builds.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Artifact;

use crate::{cargo, process};

/// A test binary.
pub(crate) struct Binary {
    /// The name of its target: `lifecycle`, `sockline`.
    pub(crate) name: String,
    /// Whether it is a folder or file of `tests/`; the others are unit tests.
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

    /// The names of its tests.
    pub(crate) fn tests(&self) -> Result<Vec<String>> {
        let mut list = Command::new(&self.path);
        let list = process::output(list.args(["--list", "--format", "terse"]))
            .with_context(|| format!("listing the tests of {}", self.name))?;
        let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(ToOwned::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[derive(Clone, Copy, PartialEq)]
    enum Profile {
        Dev,
        Test,
    }

    fn artifact(kind: &str, profile: Profile, executable: Option<&str>) -> Artifact {
        let message = json!({
            "package_id": "path+file:///w/tests#0.1.0", "manifest_path": "/w/tests/Cargo.toml",
            "target": {
                "kind": [kind], "crate_types": ["bin"], "name": "udp", "edition": "2024",
                "src_path": "/w/tests/tests/udp.rs", "doc": false, "doctest": false, "test": true,
            },
            "profile": {
                "opt_level": "0", "debuginfo": "line-tables-only", "debug_assertions": true,
                "overflow_checks": true, "test": profile == Profile::Test,
            },
            "features": [], "filenames": [], "executable": executable, "fresh": true,
        });
        serde_json::from_value(message).unwrap()
    }

    #[test]
    fn only_tests_are_test_binaries() {
        let test = Binary::of(artifact("test", Profile::Test, Some("/w/target/debug/deps/udp-1")))
            .unwrap();
        assert_eq!((test.name.as_str(), test.is_integration), ("udp", true));
        assert_eq!(test.package, Path::new("/w/tests"));
        let unit =
            Binary::of(artifact("lib", Profile::Test, Some("/w/target/debug/deps/udp-2"))).unwrap();
        assert!(!unit.is_integration);
        assert!(Binary::of(artifact("bin", Profile::Dev, Some("/w/target/debug/udp"))).is_none());
        assert!(Binary::of(artifact("lib", Profile::Test, None)).is_none());
    }
}
