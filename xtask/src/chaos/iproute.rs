//! `ip` of iproute2, one command at a time.

use std::process::Command;

use anyhow::{Context, Result, bail};
use sockline_testbed::Ns;

/// Runs `ip` in a network namespace.
pub(super) fn ip(ns: &Ns, line: &str) -> Result<()> {
    let output = ns.output(Command::new("ip").args(line.split(' ')));
    let output = output.context("starting `ip` (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {line} in {}: {}", ns.name(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
