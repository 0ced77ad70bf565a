//! No agent for so long that the programs bypass every call, on a node with a kube-proxy.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::chaos::{harness::Harness, kube_proxy::KubeProxy};

/// The shortest time that the agent accepts.
const FAIL_OPEN_AFTER: Duration = Duration::from_secs(10);
/// After this time no answer may come from the maps.
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
    proxy.open(&harness.cluster.clients)?;
    harness.oracle.bypass_begins();
    harness.kill()?;
    thread::sleep(FAIL_OPEN_AFTER + MARGIN);
    harness.results.event("every call is bypassed");
    let (before, began) = (proxy.answers(), Instant::now());
    while began.elapsed() < BYPASSED {
        // The stand-in knows every change at once, so an answer from the maps is a violation.
        harness.oracle.confirm(Instant::now());
        thread::sleep(Duration::from_millis(100));
    }
    let answers = proxy.answers() - before;
    harness.results.event(format!("kube-proxy gave {answers} answers"));
    if answers == 0 {
        harness.results.violation(
            "nodes without an agent that did not fail open",
            "no call reached kube-proxy",
        );
    }
    harness.start(build)?;
    harness.oracle.bypass_ends();
    proxy.close(&harness.cluster.clients)?;
    // Calls that have reached kube-proxy get their answers.
    thread::sleep(Duration::from_secs(1));
    harness.confirm()
}
