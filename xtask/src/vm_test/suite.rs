//! Which tests run, and their binaries.

use anyhow::{Result, bail};

use super::kernels::Shape;
use crate::{
    setup, term,
    test::binaries::{self, Binary},
};

/// The data path's tests: those that create sockets, load programs or read maps. The others (plans, the Kubernetes
/// source, manifests of deploy/) do not depend on the kernel.
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

/// The tests in which kernels differ most.
const SHORT: [&str; 4] = ["dead_backends", "older_kernels", "refusal", "special_sockets"];

/// The tests that wait for running programs: `nohz_full=` changes how that works.
const WAITING: [&str; 5] = ["check", "limits", "reclaim", "repair", "restart"];

/// The tests whose result can differ in a machine of this shape.
pub(super) fn for_shape(shape: Shape, tests: &[String]) -> Vec<String> {
    let is_new = |test: &&String| match shape {
        Shape::Plain => true,
        Shape::NohzFull => WAITING.contains(&test.as_str()),
    };
    tests.iter().filter(is_new).cloned().collect()
}

/// Builds the tests as `cargo xtask test` does, and reuses its build.
pub(super) fn build_tests(names: &[String]) -> Result<Vec<Binary>> {
    setup::ensure()?;
    term::doing("build", "the tests");
    let args: Vec<&str> = names.iter().flat_map(|name| ["--test", name]).collect();
    let built = binaries::build(&args)?;
    if let Some(name) = names.iter().find(|name| !built.iter().any(|test| test.name == **name)) {
        bail!("cargo did not build a test `{name}`");
    }
    Ok(built)
}

/// The tests with these names, or all tests.
pub(super) fn select(names: &[String], short: bool) -> Result<Vec<String>> {
    if short {
        return Ok(SHORT.map(ToOwned::to_owned).to_vec());
    }
    if names.is_empty() {
        return Ok(DATA_PATH.map(ToOwned::to_owned).to_vec());
    }
    if let Some(unknown) = names.iter().find(|name| !DATA_PATH.contains(&name.as_str())) {
        bail!("there is no data path test {unknown:?}; the tests are {}", DATA_PATH.join(", "));
    }
    Ok(names.to_vec())
}
