//! Addresses of other nodes that do not fit.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
};

use serde_json::json;
use sockline_testbed::objects;

use super::{
    common::{self, CART, WebNode, eventually, holds, series},
    eventually_out_of_sync, out_of_sync_count,
};

const SHIP: &str = "10.96.0.2";
const NODE_PORT: u16 = 30_080;
const LIMIT: u8 = 20;

/// No machine has it: an answer means that the call was translated.
fn address(node: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, node).into()
}

fn put_nodes(node: &WebNode, numbers: Range<u8>) {
    let other = |number| objects::node_at(&format!("node-{number}"), &[address(number)]);
    node.put("nodes.yaml", &numbers.map(other).collect::<Vec<_>>());
}

#[test]
fn nodes_that_do_not_fit_are_reported_and_all_else_is_served() {
    let node = WebNode::new(1);
    let mut cart = objects::web_service("cart", CART);
    cart["spec"]["type"] = json!("NodePort");
    cart["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    node.put("cart.yaml", &[cart, objects::slice("cart", &node.web_addresses())]);
    put_nodes(&node, 0..LIMIT + 10);
    let limit = LIMIT.to_string();
    let agent = node.start_agent_with(&["--nodeports-of-all-nodes", "--max-frontends", &limit]);
    let dial = |ip| node.client.tcp_ask(SocketAddr::new(ip, NODE_PORT));
    let all_else_is_served = || {
        node.assert_served(CART);
        dial(node.addresses()[0]).unwrap();
    };
    eventually_out_of_sync(
        &node,
        &[
            "NodePorts at other nodes' addresses: map `FRONTENDS` is full: its limit is 20 entries (--max-frontends)",
        ],
    );
    all_else_is_served();
    let nodes_out_of_sync =
        || series(&agent.metrics().unwrap(), "sockline_other_nodes_out_of_sync").unwrap();
    assert_eq!((nodes_out_of_sync(), out_of_sync_count(&agent)), (1.0, Some(0.0)));
    assert!(series(&agent.metrics().unwrap(), "sockline_sync_errors_total") > Some(0.0));
    let frontends = || series(&agent.metrics().unwrap(), "sockline_frontends").unwrap();
    let before = frontends();
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    all_else_is_served();
    let log = agent.log();
    assert_eq!(common::lines_with(&log, "map `FRONTENDS` is full").len(), 1, "{log}");
    // As many as fit.
    eventually("the new frontends to be counted", || {
        holds(frontends() == before + 2.0, frontends())
    });
    let fit = LIMIT - frontends() as u8;
    put_nodes(&node, 0..fit);
    eventually("the last node's NodePort", || dial(address(fit - 1)));
    eventually_out_of_sync(&node, &[]);
    assert_eq!(nodes_out_of_sync(), 0.0);
    dial(address(0)).unwrap();
    // One is removed, and one that did not fit before is added.
    put_nodes(&node, 1..fit + 1);
    eventually("the new node's NodePort", || dial(address(fit)));
    assert!(dial(address(0)).is_err(), "that node is gone");
    all_else_is_served();
}
