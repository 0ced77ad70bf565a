//! Service addresses that do not fit.

use serde_json::json;
use sockline_testbed::objects;

use super::{
    address,
    common::{self, WebNode, eventually, holds, series},
    eventually_out_of_sync_count, name, out_of_sync_count, put_services, served,
};

#[test]
fn services_that_do_not_fit_are_reported_and_the_others_are_served() {
    let node = WebNode::new(1);
    put_services(&node, 0..12);
    let agent = node.start_agent_with(&["--max-frontends", "10"]);
    assert_eq!(served(&node), 10);
    let failures = ["s10", "s11"].map(|name| {
        format!("shop/{name}:web/TCP: map `FRONTENDS` is full: its limit is 10 entries (--max-frontends)")
    });
    assert_eq!(node.wrong("outOfSync"), failures);
    assert_eq!(out_of_sync_count(&agent), Some(2.0));
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains(&format!("OUT OF SYNC\n  {}\n", failures[0])), "{table}");
    let log = agent.log();
    let lines = common::lines_with(&log, "map `FRONTENDS` is full");
    assert_eq!(lines.len(), 1, "not one line: {log}");
    assert!(
        lines[0].contains("2 service ports keep what they had: shop/s10:web/TCP, shop/s11:web/TCP"),
        "{log}"
    );
}

#[test]
fn metrics_count_only_frontends_in_the_kernel() {
    let node = WebNode::new(1);
    put_services(&node, 0..12);
    let agent = node.start_agent_with(&["--max-frontends", "10"]);
    let metrics = agent.metrics().unwrap();
    assert_eq!(series(&metrics, "sockline_frontends"), Some(10.0));
    assert_eq!(series(&metrics, "sockline_service_ports"), Some(10.0));
    assert_eq!(node.services().len(), 10);
}

#[test]
fn a_service_that_outgrows_the_limit_keeps_its_old_state() {
    let node = WebNode::new(1);
    put_services(&node, 0..10);
    let agent = node.start_agent_with(&["--max-frontends", "10"]);
    let mut grown = objects::web_service("s00", &address(0));
    grown["spec"]["externalIPs"] = json!(["10.97.0.1"]);
    node.put("s00.yaml", &[grown, objects::slice("s00", &node.web_addresses())]);
    eventually("the failure", || holds(out_of_sync_count(&agent) == Some(1.0), agent.log()));
    node.assert_served(&address(0));
    node.assert_untouched("10.97.0.1");
}

#[test]
fn a_higher_limit_after_a_restart_admits_the_others() {
    let node = WebNode::new(1);
    put_services(&node, 0..12);
    let mut agent = node.start_agent_with(&["--max-frontends", "10"]);
    agent.stop().unwrap();
    let next = node.start_agent_with(&["--max-frontends", "20"]);
    assert_eq!(served(&node), 12);
    assert_eq!(out_of_sync_count(&next), Some(0.0));
}

#[test]
fn a_lower_limit_after_a_restart_removes_nothing() {
    let node = WebNode::new(1);
    put_services(&node, 0..12);
    let mut agent = node.start_agent();
    agent.stop().unwrap();
    let _next = node.start_agent_with(&["--max-frontends", "5", "--max-backends", "5"]);
    assert_eq!(served(&node), 12);
    assert_eq!(node.wrong("outOfSync"), [""; 0]);
    // And goes on working below the limits again.
    for number in 0..10 {
        node.remove(&format!("{}.yaml", name(number)));
    }
    eventually("two to be left", || {
        let left = node.services();
        holds(left.len() == 2, format!("{left:?}"))
    });
    put_services(&node, 0..2);
    eventually("four to be served", || {
        let served = served(&node);
        holds(served == 4, served)
    });
}

#[test]
fn a_deleted_service_makes_room_for_a_reported_one() {
    let node = WebNode::new(1);
    put_services(&node, 0..11);
    let agent = node.start_agent_with(&["--max-frontends", "10"]);
    node.assert_untouched(&address(10));
    node.remove("s03.yaml");
    node.eventually_served(&address(10));
    eventually_out_of_sync_count(&agent, 0.0);
    node.assert_untouched(&address(3));
}

#[test]
fn a_service_that_replaces_another_in_one_step_fits() {
    let node = WebNode::new(1);
    let all = |numbers: std::ops::Range<usize>| {
        let pairs = numbers.map(|number| {
            let name = name(number);
            let slice = objects::slice(&name, &node.web_addresses());
            [objects::web_service(&name, &address(number)), slice]
        });
        pairs.flatten().collect::<Vec<_>>()
    };
    node.put("all.yaml", &all(0..10));
    let agent = node.start_agent_with(&["--max-frontends", "10"]);
    node.put("all.yaml", &all(1..11));
    node.eventually_served(&address(10));
    let log = agent.log();
    assert!(!log.contains("is full"), "{log}");
}
