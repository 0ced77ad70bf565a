//! A service that does not fit does not affect the others.

use super::{
    address,
    common::{WebNode, eventually, holds, series},
    eventually_out_of_sync, eventually_out_of_sync_count, out_of_sync_count, put_services,
    put_spread,
};

const BIG: [&str; 4] = ["10.244.7.1", "10.244.7.2", "10.244.7.3", "10.244.7.4"];

/// How many syncs there were with this extent of the plan.
fn syncs(agent: &sockline_testbed::Agent, scope: &str) -> f64 {
    let name = format!("sockline_syncs_total{{scope=\"{scope}\"}}");
    series(&agent.metrics().unwrap(), &name).unwrap_or(0.0)
}

#[test]
fn while_one_service_does_not_fit_others_are_updated() {
    let node = WebNode::new(2);
    put_spread(&node, "cart", &address(0), &["10.244.1.1"]);
    put_spread(&node, "other", &address(1), &["10.244.1.1"]);
    let agent = node.start_agent_with(&["--max-backends", "4"]);
    put_spread(&node, "big", &address(2), &BIG);
    eventually_out_of_sync_count(&agent, 1.0);
    let (full, changes) = (syncs(&agent, "full"), syncs(&agent, "changes"));
    put_spread(&node, "cart", &address(0), &["10.244.1.2"]);
    eventually("the change", || {
        let backends = node.backends("cart", "web");
        holds(backends == ["10.244.1.2"], format!("{backends:?}"))
    });
    assert!(syncs(&agent, "changes") > changes, "it was no change of a single service");
    // A retry is no full sync, either.
    eventually("the large one to be tried twice", || {
        let tried = syncs(&agent, "retry");
        holds(tried >= 2.0, tried)
    });
    assert_eq!(syncs(&agent, "full"), full);
    assert_eq!(out_of_sync_count(&agent), Some(1.0));
    node.remove("cart.yaml");
    node.remove("other.yaml");
    eventually_out_of_sync_count(&agent, 0.0);
    assert_eq!(node.backends("big", "web"), BIG);
    assert_eq!(syncs(&agent, "full"), full);
}

#[test]
fn a_deleted_service_that_did_not_fit_is_not_reported_any_more() {
    let node = WebNode::new(1);
    put_services(&node, 0..1);
    put_spread(&node, "big", &address(1), &BIG);
    let agent = node.start_agent_with(&["--max-backends", "4"]);
    assert_eq!(out_of_sync_count(&agent), Some(1.0));
    node.remove("big.yaml");
    eventually_out_of_sync_count(&agent, 0.0);
    let metrics = agent.metrics().unwrap();
    assert!(!metrics.contains("sockline_service_port_out_of_sync{"), "{metrics}");
    eventually_out_of_sync(&node, &[]);
}

#[test]
fn a_new_service_that_does_not_fit_takes_no_room() {
    let node = WebNode::new(1);
    put_services(&node, 0..1);
    let agent = node.start_agent_with(&["--max-backends", "4"]);
    put_spread(&node, "big", &address(1), &BIG);
    eventually_out_of_sync_count(&agent, 1.0);
    for (map, entries) in
        [("service-names", 1.0), ("slots", 1.0), ("backends", 1.0), ("frontends", 1.0)]
    {
        assert_eq!(super::map(&agent, "entries", map), entries, "{map}");
    }
}

#[test]
fn services_that_do_not_fit_are_named_in_metrics() {
    let node = WebNode::new(1);
    put_services(&node, 0..3);
    let agent = node.start_agent_with(&["--max-frontends", "1"]);
    let metrics = agent.metrics().unwrap();
    for name in ["s01", "s02"] {
        let series_name = format!(
            "sockline_service_port_out_of_sync\
             {{namespace=\"shop\",service=\"{name}\",port=\"web\",protocol=\"TCP\"}}"
        );
        assert_eq!(series(&metrics, &series_name), Some(1.0), "{metrics}");
    }
    let in_sync = "sockline_service_port_out_of_sync{namespace=\"shop\",service=\"s00\"";
    assert!(!metrics.contains(in_sync), "{metrics}");
}
