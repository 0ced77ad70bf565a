//! No agent for so long that the programs let every call through, beside a kube-proxy that serves.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::chaos::{harness::Harness, kube_proxy::KubeProxy};

/// The shortest that the agent takes.
const FAIL_OPEN_AFTER: Duration = Duration::from_secs(10);
/// From then on nothing may come from the maps.
const MARGIN: Duration = Duration::from_secs(2);
const BYPASSED: Duration = Duration::from_secs(3);

pub(super) fn beside_kube_proxy(harness: &mut Harness) -> Result<()> {
    let build = harness.build();
    harness.stop()?;
    let usual = harness.fail_open_after;
    harness.fail_open_after = FAIL_OPEN_AFTER;
    harness.start(build)?;
    harness.fail_open_after = usual;
    let proxy = KubeProxy::start(&harness.node, &harness.oracle)?;
    proxy.admit(&harness.cluster.clients)?;
    harness.oracle.bypass_begins();
    harness.kill()?;
    thread::sleep(FAIL_OPEN_AFTER + MARGIN);
    harness.results.event("every call is bypassed");
    let (before, began) = (proxy.answers(), Instant::now());
    while began.elapsed() < BYPASSED {
        // What serves knows of every change at once: an answer by what the maps hold is a mistake.
        harness.oracle.confirm(Instant::now());
        thread::sleep(Duration::from_millis(100));
    }
    let answers = proxy.answers() - before;
    harness.results.event(format!("{answers} answers in kube-proxy's place"));
    if answers == 0 {
        harness
            .results
            .mistake("agents away for which nothing failed open", "no call came through");
    }
    harness.start(build)?;
    harness.oracle.bypass_ends();
    proxy.shut_out(&harness.cluster.clients)?;
    // For calls that came here before.
    thread::sleep(Duration::from_secs(1));
    harness.confirm()
}
