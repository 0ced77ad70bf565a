//! Repairs, and repairs that fail, are in the log, the status and the metrics.

use std::fs;

use serde_json::json;
use sockline::dataplane::Drift;

use super::{eventually_repaired, repairs, serving, without_a_gap};
use crate::common::{eventually, holds, series};

#[test]
fn repairs_are_in_the_status_and_in_the_log() {
    let (node, agent, damage) = serving();
    damage.remove_frontend(&damage.frontend(80).key);
    eventually_repaired(&agent, "frontend", 1);
    eventually("the status to count it", || {
        let counted = node.status()["agent"]["driftRepairs"].clone();
        holds(counted == json!({"frontend": 1}), counted)
    });
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("1 frontend since its start"), "{table}");
    let log = agent.log();
    let repaired = "the kernel differed from the plan and was repaired: 1 frontend";
    assert_eq!(crate::common::lines_with(&log, repaired).len(), 1, "{log}");
}

#[test]
fn nothing_is_repaired_without_drift() {
    let (node, agent, damage) = serving();
    node.put_service("ship", "10.96.0.2");
    node.eventually_served("10.96.0.2");
    node.remove("ship.yaml");
    node.eventually_untouched("10.96.0.2");
    // One repair proves that a comparison has ended.
    damage.remove_frontend(&damage.frontend(80).key);
    eventually_repaired(&agent, "frontend", 1);
    for kind in
        Drift::KINDS.map(|(kind, _)| kind.name()).into_iter().filter(|kind| *kind != "frontend")
    {
        assert_eq!(repairs(&agent, kind), 0, "{kind}");
    }
}

#[test]
fn a_failed_reconciliation_is_reported_once_and_shown_until_it_succeeds() {
    let (node, agent, damage) = serving();
    let (links, away) = (damage.pins().links(), damage.pins().directory().join("away"));
    fs::rename(&links, &away).unwrap();
    damage.pin_a_map_at(&links);
    let failure = format!(
        "cannot reconcile pins and links: cannot make the folder {}: File exists (os error 17)",
        links.display()
    );
    without_a_gap(&node, || {
        eventually("the error", || {
            let seen = node.wrong("reconcileErrors");
            holds(seen == [failure.as_str()], format!("{seen:?}"))
        });
    });
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains(&format!("NOT RECONCILED\n  {failure}\n")), "{table}");
    fs::remove_file(&links).unwrap();
    fs::rename(&away, &links).unwrap();
    eventually("no error", || {
        let seen = node.wrong("reconcileErrors");
        holds(seen.is_empty(), format!("{seen:?}"))
    });
    crate::common::eventually_logged(&agent, &failure, 2);
    let log = agent.log();
    assert_eq!(
        crate::common::lines_with(&log, &failure).len(),
        2,
        "once, and once resolved: {log}"
    );
}

#[test]
fn a_frontend_that_cannot_be_removed_is_reported_until_it_is_gone() {
    let (node, agent, damage) = serving();
    node.put_service("ship", "10.96.0.2");
    node.eventually_served("10.96.0.2");
    damage.freeze_frontends();
    node.remove("ship.yaml");
    let failed = || {
        let failures = node.wrong("outOfSync");
        let of_ship = failures.iter().filter(|failure| failure.starts_with("shop/ship:"));
        holds(of_ship.count() == 2, format!("{failures:?}"))
    };
    eventually("both ports to be out of sync", failed);
    let tries = || {
        let metrics = agent.metrics().unwrap();
        ["full", "retry", "changes"]
            .map(|scope| format!("sockline_syncs_total{{scope=\"{scope}\"}}"))
            .iter()
            .filter_map(|name| series(&metrics, name))
            .sum::<f64>()
    };
    let before = tries();
    eventually("another try", || holds(tries() >= before + 2.0, tries()));
    failed().unwrap();
    // Everything that it refers to still exists as well.
    node.assert_served("10.96.0.2");
    assert_eq!(node.status()["frontends"], 4);
}
