//! An API server that is away, or says nothing. The kernel goes on with what it has.

use std::time::{Duration, Instant};

use anyhow::Result;
use sockline_testbed::api::{Cut, Fault, Resource};

use super::pause;
use crate::chaos::harness::Harness;

const AWAY: Duration = Duration::from_secs(4);
/// What pods are led to follows the agent.
const REACHED_WITHIN: Duration = Duration::from_secs(30);

/// All watches break at once, in every way.
pub(super) fn cut(harness: &mut Harness) -> Result<()> {
    for _ in 0..harness.random.usize(1..6) {
        for resource in Resource::ALL {
            let cuts = [Cut::End, Cut::Between, Cut::Within, Cut::Expired, Cut::Corrupt];
            let cut = cuts[harness.random.usize(..cuts.len())];
            harness.results.event(format!("the watch of {resource:?} is cut: {cut:?}"));
            harness.cluster.api.cut(resource, cut);
        }
        pause(harness, Duration::from_millis(500));
    }
    harness.confirm()
}

/// Connections stay open and nothing is said.
pub(super) fn hang(harness: &mut Harness) -> Result<()> {
    let held: Vec<Resource> = Resource::ALL.into_iter().filter(|_| harness.random.bool()).collect();
    harness.results.event(format!("held: {held:?}"));
    for &resource in &held {
        harness.cluster.api.hold(resource, true);
    }
    pause(harness, AWAY);
    for &resource in &held {
        harness.cluster.api.hold(resource, false);
    }
    harness.results.event("nothing is held any more");
    harness.confirm()
}

/// Every new request is turned away, and the open watches end.
pub(super) fn refuse(harness: &mut Harness) -> Result<()> {
    let api = harness.cluster.api.clone();
    harness.results.event("requests are refused");
    for resource in Resource::ALL {
        api.fault(resource, if harness.random.bool() { Fault::Close } else { Fault::Gone });
        api.cut(resource, Cut::Between);
    }
    pause(harness, AWAY);
    for resource in Resource::ALL {
        api.lift(resource);
    }
    harness.results.event("requests are answered again");
    harness.confirm()
}

/// It comes back without its history.
pub(super) fn restart(harness: &mut Harness) -> Result<()> {
    harness.stop_server();
    pause(harness, AWAY);
    harness.cluster.api.compact();
    harness.start_server()?;
    harness.confirm()
}

/// Agents start and end while there is no API server.
pub(super) fn kill_without(harness: &mut Harness) -> Result<()> {
    harness.stop_server();
    harness.kill()?;
    harness.spawn(harness.build())?;
    pause(harness, AWAY);
    harness.kill()?;
    harness.spawn(harness.build())?;
    pause(harness, AWAY);
    harness.start_server()?;
    harness.settle()
}

/// The only API server ends as kube-apiserver does: it takes its endpoint away first, while everybody
/// watches.
pub(super) fn graceful_restart(harness: &mut Harness) -> Result<()> {
    harness.results.event("the API server takes its endpoint away");
    harness.control_plane.withdraw();
    harness.confirm()?;
    harness.stop_server();
    pause(harness, AWAY);
    harness.cluster.api.compact();
    harness.start_server()?;
    harness.control_plane.tell();
    recover(harness)
}

/// The API server ends and is somewhere else, and nobody saw how.
pub(super) fn moved(harness: &mut Harness) -> Result<()> {
    harness.stop_server();
    pause(harness, AWAY);
    harness.control_plane.change_machine();
    harness.control_plane.tell();
    harness.start_server()?;
    recover(harness)
}

/// The machine with the API server is gone without a word to its connections, and another one takes over.
pub(super) fn power_loss(harness: &mut Harness) -> Result<()> {
    harness.results.event("the control plane's machine loses its power");
    let dark = harness.control_plane.lose_power()?;
    pause(harness, AWAY);
    harness.start_server()?;
    harness.control_plane.tell();
    let recovered = recover(harness);
    harness.control_plane.restore_power(dark)?;
    recovered
}

/// The agent follows the cluster again, and pods reach the API server.
fn recover(harness: &mut Harness) -> Result<()> {
    let began = Instant::now();
    harness.confirm()?;
    harness.results.event(format!("the agent has found back after {:.1?}", began.elapsed()));
    let client = &harness.cluster.clients[0];
    harness.control_plane.reached_from(client, REACHED_WITHIN)
}
