//! The faults, each with its recovery.

mod agents;
mod fail_open;
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

use super::harness::Harness;

/// A fault. When `run` returns, the agent is ready and the kernel has the cluster's state.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) run: fn(&mut Harness) -> Result<()>,
}

const fn fault(name: &'static str, run: fn(&mut Harness) -> Result<()>) -> Fault {
    Fault { name, run }
}

pub(super) const ALL: [Fault; 28] = [
    fault("kill", agents::kill),
    fault("kill-early", agents::kill_early),
    fault("term", agents::term),
    fault("other-build", agents::other_build),
    fault("other-layout", agents::other_layout),
    fault("kill-in-layout-change", agents::kill_in_layout_change),
    fault("second-agent", agents::second_agent),
    fault("unpin-link", pins::unpin_link),
    fault("unpin-map", pins::unpin_map),
    fault("unpin-inner-map", pins::unpin_inner_map),
    fault("stale-pins", pins::stale),
    fault("remove-all-pins", pins::remove_all),
    fault("detach-link", pins::detach_link),
    fault("corrupt-frontends", maps::frontends),
    fault("corrupt-slots", maps::slots),
    fault("corrupt-backends", maps::backends),
    fault("corrupt-filter", maps::filter),
    fault("corrupt-names", maps::names),
    fault("api-cut", source::cut),
    fault("api-hang", source::hang),
    fault("api-refuse", source::refuse),
    fault("api-restart", source::restart),
    fault("kill-without-api", source::kill_without),
    fault("api-graceful-restart", source::graceful_restart),
    fault("api-moved", source::moved),
    fault("api-power-loss", source::power_loss),
    fault("fail-open-beside-kube-proxy", fail_open::beside_kube_proxy),
    fault("many-sockets", sockets::many),
];

/// Waits for a random time up to this one.
fn pause(harness: &mut Harness, longest: Duration) {
    thread::sleep(longest.mul_f64(harness.random.f64()));
}

/// For repairs, which the agent makes once a second.
const REPAIRED_WITHIN: Duration = Duration::from_secs(30);

fn wait_for(what: &str, there: impl FnMut() -> bool) -> Result<()> {
    wait_within(REPAIRED_WITHIN, what, there)
}

fn wait_within(time: Duration, what: &str, mut there: impl FnMut() -> bool) -> Result<()> {
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
