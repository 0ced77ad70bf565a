//! The capabilities that the agent keeps after its start, and what it can do with them.

mod capabilities;
mod helper;

use std::{collections::BTreeMap, fs, path::Path};

use crate::common::WebNode;

const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const BPF: u64 = 1 << 39;

/// The fields of a `/proc/…/status` that are about privileges.
fn privileges(folder: &Path) -> BTreeMap<String, u64> {
    let status = fs::read_to_string(folder.join("status")).unwrap();
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.starts_with("Cap") || *name == "NoNewPrivs")
        .map(|(name, value)| (name.to_owned(), u64::from_str_radix(value.trim(), 16).unwrap()))
        .collect()
}

/// The fields of a process that has only these capabilities.
fn only(capabilities: u64) -> BTreeMap<String, u64> {
    [
        ("CapInh", 0),
        ("CapPrm", capabilities),
        ("CapEff", capabilities),
        ("CapBnd", capabilities),
        ("CapAmb", 0),
        ("NoNewPrivs", 1),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The helper's process id in the status.
fn helper(node: &WebNode) -> u32 {
    let status = node.status();
    let pid = status["agent"]["termination"]["helper"]["pid"].as_u64();
    let pid = pid.unwrap_or_else(|| panic!("no helper runs: {status:#}"));
    pid.try_into().unwrap()
}
