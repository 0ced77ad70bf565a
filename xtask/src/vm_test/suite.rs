//! The test set, and the binaries that it is in.

use anyhow::{Result, bail};

use super::kernels::Shape;
use crate::{
    setup, term,
    test::binaries::{self, Binary},
};

/// The tests of the data path: whatever makes sockets, loads programs or reads maps. The others
/// (plans, the Kubernetes source, manifests of deploy/) are the same on any kernel.
const DATA_PATH: [&str; 25] = [
    "addresses",
    "affinity",
    "balance",
    "check",
    "cleanup",
    "counters",
    "dead_backends",
    "fail_open",
    "kube",
    "left_alone",
    "limits",
    "nested",
    "node_port",
    "older_kernels",
    "owner",
    "reclaim",
    "refusal",
    "repair",
    "restart",
    "robustness",
    "socket_limits",
    "special_sockets",
    "startup",
    "tcp",
    "udp",
];

/// Where kernels differ most.
const SHORT: [&str; 4] = ["dead_backends", "older_kernels", "refusal", "special_sockets"];

/// What waits for running programs, which is what `nohz_full=` changes.
const WAITING: [&str; 5] = ["check", "limits", "reclaim", "repair", "restart"];

/// Those of the tests that tell something new in such a machine.
pub(super) fn of_shape(shape: Shape, tests: &[String]) -> Vec<String> {
    let is_new = |test: &&String| match shape {
        Shape::Plain => true,
        Shape::NohzFull => WAITING.contains(&test.as_str()),
    };
    tests.iter().filter(is_new).cloned().collect()
}

/// Builds the tests, as `cargo xtask test` does: what that has built is used.
pub(super) fn build_tests(names: &[String]) -> Result<Vec<Binary>> {
    setup::ensure()?;
    term::doing("build", "the tests");
    let args: Vec<&str> = names.iter().flat_map(|name| ["--test", name]).collect();
    let built = binaries::build(&args)?;
    if let Some(name) = names.iter().find(|name| !built.iter().any(|test| test.name == **name)) {
        bail!("cargo has built no test `{name}`");
    }
    Ok(built)
}

/// The tests by these names, or all of them.
pub(super) fn select(names: &[String], short: bool) -> Result<Vec<String>> {
    if short {
        return Ok(SHORT.map(ToOwned::to_owned).to_vec());
    }
    if names.is_empty() {
        return Ok(DATA_PATH.map(ToOwned::to_owned).to_vec());
    }
    if let Some(unknown) = names.iter().find(|name| !DATA_PATH.contains(&name.as_str())) {
        bail!("no data-path test is called {unknown:?}; there are {}", DATA_PATH.join(", "));
    }
    Ok(names.to_vec())
}
