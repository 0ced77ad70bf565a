//! No agent for so long that the programs let every call through, beside a kube-proxy that serves.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::chaos::{keeper::Keeper, kube_proxy::KubeProxy};

/// The shortest that the agent takes.
const FAIL_OPEN_AFTER: Duration = Duration::from_secs(10);
/// From then on nothing may come from the maps.
const MARGIN: Duration = Duration::from_secs(2);
const BYPASSED: Duration = Duration::from_secs(3);

pub(super) fn beside_kube_proxy(keeper: &mut Keeper) -> Result<()> {
    let build = keeper.build();
    keeper.stop()?;
    let usual = keeper.fail_open_after;
    keeper.fail_open_after = FAIL_OPEN_AFTER;
    keeper.start(build)?;
    keeper.fail_open_after = usual;
    let proxy = KubeProxy::start(&keeper.node, &keeper.world)?;
    proxy.admit(&keeper.cluster.clients)?;
    keeper.world.bypass_begins();
    keeper.kill()?;
    thread::sleep(FAIL_OPEN_AFTER + MARGIN);
    keeper.ledger.event("every call is bypassed");
    let (before, began) = (proxy.answers(), Instant::now());
    while began.elapsed() < BYPASSED {
        // What serves knows of every change at once: an answer by what the maps hold is a mistake.
        keeper.world.confirm(Instant::now());
        thread::sleep(Duration::from_millis(100));
    }
    let answers = proxy.answers() - before;
    keeper.ledger.event(format!("{answers} answers in kube-proxy's place"));
    if answers == 0 {
        keeper.ledger.mistake("agents away for which nothing failed open", "no call came through");
    }
    keeper.start(build)?;
    keeper.world.bypass_ends();
    proxy.shut_out(&keeper.cluster.clients)?;
    // For calls that came here before.
    thread::sleep(Duration::from_secs(1));
    keeper.confirm()
}
