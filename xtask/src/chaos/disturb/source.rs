//! An API server that is away, or says nothing. The kernel goes on with what it has.

use std::time::{Duration, Instant};

use anyhow::Result;
use sockline_testbed::api::{Cut, Fault, Resource};

use super::pause;
use crate::chaos::keeper::Keeper;

const AWAY: Duration = Duration::from_secs(4);
/// What pods are led to follows the agent.
const REACHED_WITHIN: Duration = Duration::from_secs(30);

/// All watches break at once, in every way.
pub(super) fn cut(keeper: &mut Keeper) -> Result<()> {
    for _ in 0..keeper.random.usize(1..6) {
        for resource in Resource::ALL {
            let cuts = [Cut::End, Cut::Between, Cut::Within, Cut::Expired, Cut::Corrupt];
            let cut = cuts[keeper.random.usize(..cuts.len())];
            keeper.ledger.event(format!("the watch of {resource:?} is cut: {cut:?}"));
            keeper.cluster.api.cut(resource, cut);
        }
        pause(keeper, Duration::from_millis(500));
    }
    keeper.confirm()
}

/// Connections stay open and nothing is said.
pub(super) fn hold(keeper: &mut Keeper) -> Result<()> {
    let held: Vec<Resource> = Resource::ALL.into_iter().filter(|_| keeper.random.bool()).collect();
    keeper.ledger.event(format!("held: {held:?}"));
    for &resource in &held {
        keeper.cluster.api.hold(resource, true);
    }
    pause(keeper, AWAY);
    for &resource in &held {
        keeper.cluster.api.hold(resource, false);
    }
    keeper.ledger.event("nothing is held any more");
    keeper.confirm()
}

/// Every new request is turned away, and the open watches end.
pub(super) fn refuse(keeper: &mut Keeper) -> Result<()> {
    let api = keeper.cluster.api.clone();
    keeper.ledger.event("requests are refused");
    for resource in Resource::ALL {
        api.fault(resource, if keeper.random.bool() { Fault::Close } else { Fault::Gone });
        api.cut(resource, Cut::Between);
    }
    pause(keeper, AWAY);
    for resource in Resource::ALL {
        api.lift(resource);
    }
    keeper.ledger.event("requests are answered again");
    keeper.confirm()
}

/// It comes back without its history.
pub(super) fn restart(keeper: &mut Keeper) -> Result<()> {
    keeper.stop_server();
    pause(keeper, AWAY);
    keeper.cluster.api.compact();
    keeper.start_server()?;
    keeper.confirm()
}

/// Agents start and end while there is no API server.
pub(super) fn kill_without(keeper: &mut Keeper) -> Result<()> {
    keeper.stop_server();
    keeper.kill()?;
    keeper.spawn(keeper.build())?;
    pause(keeper, AWAY);
    keeper.kill()?;
    keeper.spawn(keeper.build())?;
    pause(keeper, AWAY);
    keeper.start_server()?;
    keeper.settle()
}

/// The only API server ends as kube-apiserver does: it takes its endpoint away first, while everybody
/// watches.
pub(super) fn graceful_restart(keeper: &mut Keeper) -> Result<()> {
    keeper.ledger.event("the API server takes its endpoint away");
    keeper.control_plane.withdraw();
    keeper.confirm()?;
    keeper.stop_server();
    pause(keeper, AWAY);
    keeper.cluster.api.compact();
    keeper.start_server()?;
    keeper.control_plane.tell();
    recover(keeper)
}

/// The API server ends and is somewhere else, and nobody saw how.
pub(super) fn moved(keeper: &mut Keeper) -> Result<()> {
    keeper.stop_server();
    pause(keeper, AWAY);
    keeper.control_plane.change_machine();
    keeper.control_plane.tell();
    keeper.start_server()?;
    recover(keeper)
}

/// The machine with the API server is gone without a word to its connections, and another one takes over.
pub(super) fn power_loss(keeper: &mut Keeper) -> Result<()> {
    keeper.ledger.event("the control plane's machine loses its power");
    let dark = keeper.control_plane.lose_power()?;
    pause(keeper, AWAY);
    keeper.start_server()?;
    keeper.control_plane.tell();
    let recovered = recover(keeper);
    keeper.control_plane.restore_power(dark)?;
    recovered
}

/// The agent follows the cluster again, and pods reach the API server.
fn recover(keeper: &mut Keeper) -> Result<()> {
    let began = Instant::now();
    keeper.confirm()?;
    keeper.ledger.event(format!("the agent has found back after {:.1?}", began.elapsed()));
    let client = &keeper.cluster.clients[0];
    keeper.control_plane.reached_from(client, REACHED_WITHIN)
}
