//! The dashboards of `deploy/monitoring`, in a real Prometheus that scrapes a real agent.

use std::{fs, path::PathBuf};

use serde_json::Value;
use sockline_testbed::{Prometheus, objects};

use crate::common::{WebNode, eventually, holds};

const CART: &str = "10.96.0.1";
/// Its endpoint has no process at its port.
const BROKEN: &str = "10.96.0.2";
const WITHOUT_ENDPOINTS: &str = "10.96.0.3";
const NODE: &str = "node-a";

/// Series that a node without an API server and without errors does not have.
const ABSENT: [&str; 5] = [
    "sockline_watch_",
    "sockline_source_errors_total",
    "sockline_connections_bypassed_total",
    "sockline_connections_failed_open_total",
    "sockline_sockets_closed_total",
];

/// Panels with queries, by dashboard and title, and the queries of each.
fn panels() -> Vec<(String, Vec<String>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring/dashboards");
    let mut panels = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let title = dashboard["title"].as_str().unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let targets = panel["targets"].as_array().into_iter().flatten();
            let queries: Vec<_> =
                targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
            if !queries.is_empty() {
                panels.push((format!("{title}: {}", panel["title"].as_str().unwrap()), queries));
            }
        }
    }
    panels
}

/// The query with what Grafana puts in place of its variables.
fn filled_in(query: &str) -> String {
    let values = [
        ("$__rate_interval", "10s"),
        ("$namespace", objects::NAMESPACE),
        ("$service", "cart"),
        ("$instance", NODE),
    ];
    values.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value))
}

#[test]
fn every_panel_has_data_of_a_node_at_work() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    node.put_service("broken", BROKEN);
    node.put("empty.yaml", &[objects::service("empty", WITHOUT_ENDPOINTS)]);
    let mut cart = objects::slice("broken", &node.web_addresses());
    cart["ports"][0]["port"] = 9.into();
    node.put("broken.yaml", &[objects::service("broken", BROKEN), cart]);
    let agent = node.start_agent_with(&["--open-connections-interval", "1s"]);
    let prometheus = Prometheus::start(node.outside(), "groups: []").unwrap();
    prometheus.set_targets(&[(NODE, agent.listen())]).unwrap();
    // Not before Linux 5.12.
    let are_read = node.status()["agent"]["bytesCounted"] == "while-open";

    let panels = panels();
    assert!(panels.len() > 40, "{}", panels.len());
    let mut missing: Vec<(String, String)> = panels
        .into_iter()
        .flat_map(|(panel, queries)| {
            queries.into_iter().map(move |query| (panel.clone(), filled_in(&query)))
        })
        .collect();
    eventually("every panel to have data", || {
        node.assert_served(CART);
        node.ask(BROKEN).expect_err("no process listens");
        node.ask(WITHOUT_ENDPOINTS).expect_err("there is no endpoint");
        missing.retain(|(panel, query)| {
            let series = match prometheus.query(query) {
                Ok(series) => series,
                // Prometheus rejects it, and will do so the next time.
                Err(error) if format!("{error:#}").contains("bad_data") => {
                    panic!("{panel}: {query}: {error:#}")
                }
                Err(_) => return true,
            };
            let may_be_absent = ABSENT.iter().any(|metric| query.contains(metric))
                || (!are_read && query.contains("sockline_connections_hanging"));
            series.is_empty() && !may_be_absent
        });
        holds(missing.is_empty(), format!("{missing:#?}"))
    });
}
