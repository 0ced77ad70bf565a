//! Agents that end, at any time, and agents of other builds.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use sockline_testbed::Build;

use super::pause;
use crate::chaos::keeper::Keeper;

/// From the start to a node that is served takes about as long, on a busy machine.
const A_START: Duration = Duration::from_millis(1500);

pub(super) fn kill(keeper: &mut Keeper) -> Result<()> {
    pause(keeper, Duration::from_millis(500));
    keeper.kill()?;
    pause(keeper, Duration::from_millis(300));
    keeper.start(keeper.build())
}

/// Some in a row that do not live until they are ready.
pub(super) fn kill_early(keeper: &mut Keeper) -> Result<()> {
    keeper.kill()?;
    for _ in 0..keeper.random.usize(1..5) {
        keeper.spawn(keeper.build())?;
        pause(keeper, A_START);
        keeper.kill()?;
    }
    keeper.start(keeper.build())
}

pub(super) fn term(keeper: &mut Keeper) -> Result<()> {
    keeper.stop()?;
    pause(keeper, Duration::from_millis(300));
    keeper.start(keeper.build())
}

pub(super) fn other_build(keeper: &mut Keeper) -> Result<()> {
    let next =
        if keeper.build() == Build::OtherPrograms { Build::This } else { Build::OtherPrograms };
    keeper.stop()?;
    keeper.start(next)
}

fn of_other_layout(keeper: &Keeper) -> Build {
    if keeper.build() == Build::OtherLayout { Build::This } else { Build::OtherLayout }
}

pub(super) fn other_layout(keeper: &mut Keeper) -> Result<()> {
    keeper.stop()?;
    keeper.start(of_other_layout(keeper))
}

/// Then on, or back.
pub(super) fn kill_in_layout_change(keeper: &mut Keeper) -> Result<()> {
    let (before, next) = (keeper.build(), of_other_layout(keeper));
    keeper.kill()?;
    for _ in 0..keeper.random.usize(1..4) {
        keeper.spawn(next)?;
        pause(keeper, A_START);
        keeper.kill()?;
    }
    let last = if keeper.random.bool() { before } else { next };
    keeper.start(last)
}

/// It says who holds the node, and touches nothing.
pub(super) fn second_agent(keeper: &mut Keeper) -> Result<()> {
    let build = if keeper.random.bool() { keeper.build() } else { of_other_layout(keeper) };
    let options = keeper.options(build)?;
    let (first, node) = (keeper.agent()?.pid(), keeper.node.clone());
    let mut second = Command::new(build.binary()?);
    second
        .arg("agent")
        .arg("--kubeconfig")
        .arg(options.kubeconfig.context("the keeper's agents have one")?)
        .args(["--node-name", &options.node_name, "--listen", "127.0.0.1:0"])
        .arg("--cgroup")
        .arg(node.cgroup())
        .arg("--bpffs")
        .arg(node.bpffs())
        .arg("--admin-socket")
        .arg(node.temp().join("second.sock"))
        .stdin(Stdio::null());
    keeper.ledger.event(format!("a second agent starts: {build:?}"));
    let output = node.outside().output(&mut second).context("starting a second agent")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() != Some(1) || !said.contains(&format!("(process {first})")) {
        keeper.ledger.mistake(
            "second agents that were not turned away",
            &format!("{}: {said}", output.status),
        );
    }
    keeper.confirm()
}
