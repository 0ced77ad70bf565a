//! The test set, and the binaries that it is in.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{image, process, repo, setup, term};

/// The tests of the data path: whatever makes sockets, loads programs or reads maps. The others
/// (plans, the Kubernetes source, manifests of deploy/) are the same on any kernel.
const DATA_PATH: [&str; 21] = [
    "addresses",
    "affinity",
    "balance",
    "check",
    "cleanup",
    "counters",
    "dead_backends",
    "kube",
    "left_alone",
    "limits",
    "node_port",
    "older_kernels",
    "owner",
    "refusal",
    "repair",
    "restart",
    "robustness",
    "special_sockets",
    "startup",
    "tcp",
    "udp",
];

/// Where kernels differ most.
const SHORT: [&str; 4] = ["dead_backends", "older_kernels", "refusal", "special_sockets"];

/// A test that is built.
pub(super) struct Binary {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// Builds the tests, as `cargo xtask test` does: what that has built is used.
pub(super) fn build_tests(names: &[String]) -> Result<Vec<Binary>> {
    setup::ensure()?;
    term::doing("build", "the tests");
    let mut cargo =
        repo::cargo(&["test", "--workspace", "--exclude", "sockline-ebpf", "--no-run", "--quiet"])?;
    cargo.arg("--message-format=json-render-diagnostics");
    for name in names {
        cargo.args(["--test", name]);
    }
    let messages = process::output(&mut cargo)?;
    let built: Vec<Binary> = messages.lines().filter_map(artifact).collect();
    names
        .iter()
        .map(|name| {
            let found = built.iter().find(|binary| binary.name == *name);
            let found = found.with_context(|| format!("cargo has built no test `{name}`"))?;
            Ok(Binary { name: found.name.clone(), path: found.path.clone() })
        })
        .collect()
}

/// The agent as it is shipped: emulated, an unoptimised one takes half a minute to start.
pub(super) fn build_agent() -> Result<PathBuf> {
    image::build_static()
}

/// The test that a line of cargo's messages is about.
fn artifact(line: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str()?.into();
    let name = message["target"]["name"].as_str()?.to_owned();
    (message["target"]["kind"] == serde_json::json!(["test"])).then_some(Binary { name, path })
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
