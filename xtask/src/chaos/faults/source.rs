//! An API server that is down or hangs. The kernel keeps its state.

use std::time::{Duration, Instant};

use anyhow::Result;
use sockline_testbed::api::{Cut, Fault, Resource};

use super::pause;
use crate::chaos::harness::Harness;

const AWAY: Duration = Duration::from_secs(4);
/// The agent must first see the new endpoints.
const REACHED_WITHIN: Duration = Duration::from_secs(30);

/// All watches break, in different ways.
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

/// Connections stay open without any data.
pub(super) fn hang(harness: &mut Harness) -> Result<()> {
    let hanging: Vec<Resource> =
        Resource::ALL.into_iter().filter(|_| harness.random.bool()).collect();
    harness.results.event(format!("these watches hang: {hanging:?}"));
    for &resource in &hanging {
        harness.cluster.api.hold(resource);
    }
    pause(harness, AWAY);
    for &resource in &hanging {
        harness.cluster.api.release(resource);
    }
    harness.results.event("no watch hangs any more");
    harness.confirm()
}

/// The API server refuses new requests and ends open watches.
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

/// The API server restarts without its history.
pub(super) fn restart(harness: &mut Harness) -> Result<()> {
    harness.stop_server();
    pause(harness, AWAY);
    harness.cluster.api.compact();
    harness.start_server()?;
    harness.confirm()
}

/// Agents start and end without an API server.
pub(super) fn kill_without(harness: &mut Harness) -> Result<()> {
    harness.stop_server();
    harness.kill()?;
    harness.spawn(harness.build())?;
    pause(harness, AWAY);
    harness.kill()?;
    harness.spawn(harness.build())?;
    pause(harness, AWAY);
    harness.start_server()?;
    harness.wait_until_synced()
}

/// The only API server shuts down like kube-apiserver: it first removes its endpoint, and clients see that.
pub(super) fn graceful_restart(harness: &mut Harness) -> Result<()> {
    harness.results.event("the API server removes its endpoint");
    harness.control_plane.remove_endpoint();
    harness.confirm()?;
    harness.stop_server();
    pause(harness, AWAY);
    harness.cluster.api.compact();
    harness.start_server()?;
    harness.control_plane.publish_endpoint();
    recover(harness)
}

/// The API server moves to another machine while no client watches.
pub(super) fn moved(harness: &mut Harness) -> Result<()> {
    harness.stop_server();
    pause(harness, AWAY);
    harness.control_plane.change_machine();
    harness.control_plane.publish_endpoint();
    harness.start_server()?;
    recover(harness)
}

/// The API server's machine loses power, so connections do not end. Another machine takes over.
pub(super) fn power_loss(harness: &mut Harness) -> Result<()> {
    harness.results.event("the control plane's machine loses its power");
    let powered_off = harness.control_plane.lose_power()?;
    pause(harness, AWAY);
    harness.start_server()?;
    harness.control_plane.publish_endpoint();
    let recovered = recover(harness);
    harness.control_plane.restore_power(powered_off)?;
    recovered
}

/// Waits until the agent follows the cluster again, and pods reach the API server.
fn recover(harness: &mut Harness) -> Result<()> {
    let began = Instant::now();
    harness.confirm()?;
    harness
        .results
        .event(format!("the agent follows the cluster again after {:.1?}", began.elapsed()));
    let client = &harness.cluster.clients[0];
    harness.control_plane.reached_from(client, REACHED_WITHIN)
}
