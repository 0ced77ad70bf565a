//! What is done to the node, and how it is known to be over.

mod agents;
mod away;
mod maps;
mod pins;
mod sockets;
mod source;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::keeper::Keeper;

/// One disturbance: when it returns, the agent is ready and the kernel as the cluster is.
pub(super) struct Disturbance {
    pub(super) name: &'static str,
    pub(super) run: fn(&mut Keeper) -> Result<()>,
}

const fn disturbance(name: &'static str, run: fn(&mut Keeper) -> Result<()>) -> Disturbance {
    Disturbance { name, run }
}

pub(super) const ALL: [Disturbance; 28] = [
    disturbance("kill", agents::kill),
    disturbance("kill-early", agents::kill_early),
    disturbance("term", agents::term),
    disturbance("other-build", agents::other_build),
    disturbance("other-layout", agents::other_layout),
    disturbance("kill-in-layout-change", agents::kill_in_layout_change),
    disturbance("second-agent", agents::second_agent),
    disturbance("unpin-link", pins::unpin_link),
    disturbance("unpin-map", pins::unpin_map),
    disturbance("unpin-inner-map", pins::unpin_inner_map),
    disturbance("stray-pins", pins::stray),
    disturbance("wipe-pins", pins::wipe),
    disturbance("detach-link", pins::detach_link),
    disturbance("poke-frontends", maps::frontends),
    disturbance("poke-slots", maps::slots),
    disturbance("poke-backends", maps::backends),
    disturbance("poke-filter", maps::filter),
    disturbance("poke-names", maps::names),
    disturbance("api-cut", source::cut),
    disturbance("api-hold", source::hold),
    disturbance("api-refuse", source::refuse),
    disturbance("api-restart", source::restart),
    disturbance("kill-without-api", source::kill_without),
    disturbance("api-graceful-restart", source::graceful_restart),
    disturbance("api-moved", source::moved),
    disturbance("api-power-loss", source::power_loss),
    disturbance("away-beside-kube-proxy", away::beside_kube_proxy),
    disturbance("many-sockets", sockets::many),
];

/// Waits for up to so long, at random.
fn pause(keeper: &mut Keeper, longest: Duration) {
    thread::sleep(longest.mul_f64(keeper.random.f64()));
}

/// For repairs, which come once a second.
const REPAIRED_WITHIN: Duration = Duration::from_secs(30);

fn wait_for(what: &str, there: impl FnMut() -> bool) -> Result<()> {
    wait_long_for(REPAIRED_WITHIN, what, there)
}

fn wait_long_for(time: Duration, what: &str, mut there: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + time;
    while !there() {
        if Instant::now() > deadline {
            bail!("waited {time:?} for {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    let end = path.components().rev().take(2).collect::<Vec<_>>();
    end.iter().rev().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
