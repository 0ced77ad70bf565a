//! Agents that end at any time, and agents of other builds.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use sockline_testbed::Build;

use super::pause;
use crate::chaos::harness::Harness;

/// About the time from the start of an agent to its readiness on a busy machine.
const START_TIME: Duration = Duration::from_millis(1500);

pub(super) fn kill(harness: &mut Harness) -> Result<()> {
    pause(harness, Duration::from_millis(500));
    harness.kill()?;
    pause(harness, Duration::from_millis(300));
    harness.start(harness.build())
}

/// Several agents in a row, killed before they are ready.
pub(super) fn kill_early(harness: &mut Harness) -> Result<()> {
    harness.kill()?;
    for _ in 0..harness.random.usize(1..5) {
        harness.spawn(harness.build())?;
        pause(harness, START_TIME);
        harness.kill()?;
    }
    harness.start(harness.build())
}

pub(super) fn term(harness: &mut Harness) -> Result<()> {
    harness.stop()?;
    pause(harness, Duration::from_millis(300));
    harness.start(harness.build())
}

pub(super) fn other_build(harness: &mut Harness) -> Result<()> {
    let next =
        if harness.build() == Build::OtherPrograms { Build::This } else { Build::OtherPrograms };
    harness.stop()?;
    harness.start(next)
}

fn other_layout_build(harness: &Harness) -> Build {
    if harness.build() == Build::OtherLayout { Build::This } else { Build::OtherLayout }
}

pub(super) fn other_layout(harness: &mut Harness) -> Result<()> {
    harness.stop()?;
    harness.start(other_layout_build(harness))
}

/// Killed during a change of layout, then started with the new layout or with the old one.
pub(super) fn kill_in_layout_change(harness: &mut Harness) -> Result<()> {
    let (before, next) = (harness.build(), other_layout_build(harness));
    harness.kill()?;
    for _ in 0..harness.random.usize(1..4) {
        harness.spawn(next)?;
        pause(harness, START_TIME);
        harness.kill()?;
    }
    let last = if harness.random.bool() { before } else { next };
    harness.start(last)?;
    if last == before {
        // Meanwhile the programs of the other layout may have seen sockets close whose records are in this one's maps,
        // or the other agent may have removed those.
        harness.counts.miss_ends();
    }
    Ok(())
}

/// A second agent must exit and name the first one.
pub(super) fn second_agent(harness: &mut Harness) -> Result<()> {
    let build = if harness.random.bool() { harness.build() } else { other_layout_build(harness) };
    let options = harness.options(build)?;
    let (first, node) = (harness.agent()?.pid(), harness.node.clone());
    let mut second = Command::new(build.binary()?);
    second
        .arg("agent")
        .arg("--kubeconfig")
        .arg(options.kubeconfig.context("the harness's agents have one")?)
        .args(["--node-name", &options.node_name, "--metrics-bind-address", "127.0.0.1:0"])
        .arg("--cgroup-root")
        .arg(node.cgroup())
        .arg("--bpf-root")
        .arg(node.bpffs())
        .arg("--admin-socket")
        .arg(node.temp().join("second.sock"))
        .stdin(Stdio::null());
    harness.results.event(format!("a second agent starts: {build:?}"));
    let output = node.outside().output(&mut second).context("starting a second agent")?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() != Some(1) || !stderr.contains(&format!("(process {first})")) {
        harness
            .results
            .violation("second agents that did not exit", &format!("{}: {stderr}", output.status));
    }
    harness.confirm()
}
