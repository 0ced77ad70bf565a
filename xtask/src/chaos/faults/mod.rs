//! The faults, each with its recovery.
//!
//! `ALL` is the table that `--only`, `--without` and `--list` read. Each file has the faults of one part of the system; each fault
//! leaves the node as it found it, so that the next one starts from a node that works.

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
    /// One sentence, for `cargo xtask chaos --list`.
    pub(super) what: &'static str,
    pub(super) run: fn(&mut Harness) -> Result<()>,
}

const fn fault(
    name: &'static str,
    what: &'static str,
    run: fn(&mut Harness) -> Result<()>,
) -> Fault {
    Fault { name, what, run }
}

pub(super) const ALL: [Fault; 28] = [
    fault("kill", "The agent is killed and started again", agents::kill),
    fault(
        "kill-early",
        "Several agents in a row are killed before they are ready",
        agents::kill_early,
    ),
    fault("term", "The agent ends by SIGTERM and is started again", agents::term),
    fault("other-build", "The agent is replaced by another build", agents::other_build),
    fault(
        "other-layout",
        "The agent is replaced by one with another layout of the maps",
        agents::other_layout,
    ),
    fault(
        "kill-in-layout-change",
        "An agent is killed during a change of layout; the next one has the new layout or the old one",
        agents::kill_in_layout_change,
    ),
    fault(
        "second-agent",
        "A second agent starts; it must exit and name the first one",
        agents::second_agent,
    ),
    fault("unpin-link", "The pin of a link is removed", pins::unpin_link),
    fault("unpin-map", "The pin of a map is removed", pins::unpin_map),
    fault(
        "unpin-inner-map",
        "The pin of a map inside another map is removed",
        pins::unpin_inner_map,
    ),
    fault(
        "stale-pins",
        "A stale map, a stale link and the folder of another layout are pinned; the next agent removes them",
        pins::stale,
    ),
    fault("remove-all-pins", "All pins are removed at once", pins::remove_all),
    fault("detach-link", "A program is detached", pins::detach_link),
    fault("corrupt-frontends", "Entries of the frontends map are overwritten", maps::frontends),
    fault("corrupt-slots", "Entries of the slots map are overwritten", maps::slots),
    fault("corrupt-backends", "Entries of the backends map are overwritten", maps::backends),
    fault("corrupt-filter", "The bitmap of addresses is overwritten", maps::filter),
    fault(
        "corrupt-names",
        "Names of services are overwritten, which no program reads",
        maps::names,
    ),
    fault("api-cut", "All watches break, in different ways", source::cut),
    fault("api-hang", "Connections to the API server stay open without any data", source::hang),
    fault(
        "api-refuse",
        "The API server refuses new requests and ends open watches",
        source::refuse,
    ),
    fault("api-restart", "The API server restarts without its history", source::restart),
    fault("kill-without-api", "Agents start and end without an API server", source::kill_without),
    fault(
        "api-graceful-restart",
        "The only API server removes its endpoint, ends, and comes back",
        source::graceful_restart,
    ),
    fault(
        "api-moved",
        "The API server ends, and comes back on another machine with other addresses",
        source::moved,
    ),
    fault(
        "api-power-loss",
        "The API server's machine disappears without closing its connections, and another one takes over",
        source::power_loss,
    ),
    fault(
        "fail-open-beside-kube-proxy",
        "No agent runs for longer than `--fail-open-after`, and a stand-in for kube-proxy serves what comes through",
        fail_open::beside_kube_proxy,
    ),
    fault("many-sockets", "One pod opens as many sockets as --sockets says", sockets::many),
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
