//! A node whose agent does not run, or does not answer.

use std::fs;

use super::{assert_live_works, check, serving};
use crate::common::{CART, damage::Damage};

#[test]
fn without_an_agent_the_connects_are_still_tried() {
    let (node, mut agent) = serving();
    agent.stop().unwrap();
    let report = check(&node);
    assert_eq!((report.exit, report.all("failed")), (0, vec![]), "{:#?}", report.results);
    report.assert("agent.running", "warning", "start `sockline agent`");
    report.assert("maps.drift", "warning", "only a running agent has a plan");
    report.assert("live.service", "ok", "added by this command");
    assert_live_works(&report);
    assert_eq!(Damage::of(&node).frontends().keys().count(), 2, "no probe service is left");
    node.assert_served(CART);
    let _next = node.start_agent();
    node.assert_served(CART);
    check(&node).assert_all_ok();
}

#[test]
fn without_an_agent_the_check_does_not_change_damaged_maps() {
    let (node, mut agent) = serving();
    agent.stop().unwrap();
    let damage = Damage::of(&node);
    let entry = damage.frontend(80);
    damage.clear_slot(entry.slot_start);
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("live.service", "failed", "the maps have entries that no agent wrote");
    assert_eq!(damage.frontend(80), entry);
    let owned = damage.change_backends(|_| {});
    assert_eq!(owned, 2, "no backend was freed");
}

#[test]
fn an_agent_that_does_not_answer_fails() {
    let (node, agent) = serving();
    fs::rename(agent.admin_socket(), agent.admin_socket().with_extension("away")).unwrap();
    let report = check(&node);
    assert_eq!(report.exit, 1);
    report.assert("agent.running", "failed", &format!("process {} holds the pins", agent.pid()));
    report.assert("live.service", "failed", "no agent answers on");
}
