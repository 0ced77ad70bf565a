//! The metrics' names, labels and values.

use std::{collections::BTreeSet, fs, net::IpAddr};

use serde_json::json;
use sockline_testbed::{Agent, objects};

use super::SHIP;
use crate::common::{CART, WebNode, eventually, holds, options, series, translated};

/// Names of the labels of a series, and their values.
fn labels(line: &str) -> Vec<(&str, &str)> {
    let Some((_, rest)) = line.split_once('{') else { return Vec::new() };
    let (inside, _) = rest.rsplit_once('}').unwrap();
    inside
        .split("\",")
        .map(|pair| pair.split_once("=\"").unwrap())
        .map(|(name, value)| (name, value.trim_end_matches('"')))
        .collect()
}

#[test]
fn every_metric_has_our_prefix_a_help_and_a_type() {
    let (node, agent) = WebNode::serving(2, &[]);
    node.assert_served(CART);
    let text = agent.metrics().unwrap();
    let named = |comment: &str| -> BTreeSet<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(comment));
        lines.map(|line| line.split(' ').next().unwrap()).collect()
    };
    let (helped, typed) = (named("# HELP "), named("# TYPE "));
    assert_eq!(helped, typed);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix).filter(|family| typed.contains(family)))
            .unwrap_or(name);
        let is_ours = family.starts_with("sockline_") || family.starts_with("process_");
        assert!(is_ours, "{line}");
        assert!(typed.contains(family), "{line} has no help and type: {typed:?}");
    }
}

#[test]
fn counters_end_in_total_and_nothing_else_does() {
    let (_node, agent) = WebNode::serving(2, &[]);
    let text = agent.metrics().unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
    }
}

#[test]
fn runs_of_the_programs_are_shown_while_the_kernel_counts_them() {
    let (node, agent) = WebNode::serving(2, &[]);
    let counted = |family: &str| {
        let text = agent.metrics().unwrap();
        series(&text, &format!("sockline_bpf_program_{family}_total{{program=\"connect4\"}}"))
    };
    // The kernel counts for as long as this is open. Another process may ask for the same.
    let counting = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
    node.assert_served(CART);
    let runs = counted("runs").unwrap();
    assert!(runs >= 1.0, "{runs}");
    node.assert_served(CART);
    assert!(counted("runs").unwrap() > runs);
    let seconds = counted("run_seconds").unwrap();
    assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
    drop(counting);
}

#[test]
fn no_label_is_a_pod_or_an_address() {
    let (node, agent) = WebNode::serving(2, &[]);
    node.spread(CART, 5);
    let known = [
        "namespace",
        "service",
        "protocol",
        "reason",
        "fault",
        "map",
        "kind",
        "event",
        "object",
        "since",
        "version",
        "le",
        "scope",
        "port",
        "how",
        "traffic_class",
    ];
    let text = agent.metrics().unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        for (name, value) in labels(line) {
            assert!(known.contains(&name), "{line}");
            assert!(value.parse::<IpAddr>().is_err(), "{line}");
            assert!(!value.contains("web-"), "{line}");
        }
    }
}

#[test]
fn connections_are_counted_by_service_and_protocol() {
    let (node, agent) = WebNode::serving(2, &[]);
    node.spread(CART, 3);
    node.udp_talkers(CART, 2);
    let text = agent.metrics().unwrap();
    assert_eq!(series(&text, &translated("cart", "TCP")), Some(3.0));
    assert_eq!(series(&text, &translated("cart", "UDP")), Some(2.0));
}

#[test]
fn refusals_are_counted_with_their_reason() {
    let node = WebNode::new(0);
    node.put("cart.yaml", &[objects::web_service("cart", CART)]);
    let agent = node.start_agent();
    node.eventually_refused(CART);
    let name = "sockline_connections_refused_total{namespace=\"shop\",service=\"cart\",\
                port=\"web\",protocol=\"TCP\",reason=\"no-endpoints\"}";
    assert_eq!(series(&agent.metrics().unwrap(), name), Some(1.0));
}

#[test]
fn the_series_of_a_deleted_service_disappear() {
    let (node, agent) = WebNode::serving(2, &[]);
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    let of_ship = |agent: &Agent| crate::common::lines_with(&agent.metrics().unwrap(), "\"ship\"");
    assert_ne!(of_ship(&agent), [""; 0]);
    node.remove("ship.yaml");
    eventually("the series to disappear", || {
        let left = of_ship(&agent);
        holds(left.is_empty(), format!("{left:#?}"))
    });
}

#[test]
fn a_service_with_the_name_of_a_deleted_one_counts_from_zero() {
    let (node, agent) = WebNode::serving(2, &[]);
    node.spread(CART, 5);
    node.remove("cart.yaml");
    node.eventually_untouched(CART);
    node.put_service("cart", CART);
    node.eventually_served(CART);
    assert_eq!(series(&agent.metrics().unwrap(), &translated("cart", "TCP")), Some(1.0));
}

#[test]
fn an_agent_is_healthy_at_once_and_ready_after_its_first_sync() {
    let node = WebNode::new(0);
    let folder = node.temp().join("later");
    let mut waiting = options(&[]);
    waiting.manifests = Some(folder.clone());
    waiting.until_ready = false;
    let agent = node.agent(&waiting).unwrap();
    assert_eq!(agent.get("/healthz").unwrap().status, 200);
    let reply = agent.get("/readyz").unwrap();
    assert_eq!(reply.status, 503);
    // The reason why it waits may follow, once the source has reported it.
    assert!(reply.body.starts_with("waiting for the first full sync"), "{}", reply.body);
    assert_eq!(node.status()["agent"]["ready"], json!(false));
    fs::create_dir(&folder).unwrap();
    eventually("200", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 200, reply.status)
    });
    assert_eq!(node.status()["agent"]["ready"], json!(true));
}
