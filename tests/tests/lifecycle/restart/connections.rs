//! Connections, their backends and their counters continue over a restart.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::json;
use sockline_testbed::{ANSWER_TIMEOUT, Agent, objects, patience};

use super::cart_at_80;
use crate::common::{CART, WebNode, hammer::Hammer, series, translated};

/// Sends a line over a connection to a web pod and expects it back.
fn echo(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).unwrap();
    String::from_utf8(heard).unwrap()
}

fn open_connection(node: &WebNode) -> TcpStream {
    node.client.run(|| {
        let mut stream = TcpStream::connect(cart_at_80()).unwrap();
        stream.set_read_timeout(Some(patience(ANSWER_TIMEOUT))).unwrap();
        stream.read_exact(&mut [0; "web-0\n".len()]).unwrap();
        stream
    })
}

#[test]
fn old_and_new_connections_work_after_sigterm() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    let mut open = open_connection(&node);
    let status = agent.stop().unwrap();
    assert!(status.success(), "SIGTERM ended the agent with {status}: {}", agent.log());
    assert_eq!(echo(&mut open, "still here"), "still here");
    assert_eq!(open.peer_addr().unwrap(), cart_at_80(), "the peer is still the service");
    node.assert_served(CART);
}

#[test]
fn old_and_new_connections_work_after_sigkill() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    let mut open = open_connection(&node);
    agent.kill().unwrap();
    assert_eq!(echo(&mut open, "still here"), "still here");
    node.assert_served(CART);
}

#[test]
fn the_listing_commands_read_the_node_while_the_agent_is_down() {
    let (node, mut agent) = WebNode::serving(2, &[]);
    let look = || [node.json(&["services"]), node.json(&["backends"])];
    let before = look();
    let running = node.status();
    assert_eq!(crate::common::condition(&running, "AgentRunning"), "True", "{running:#}");
    agent.kill().unwrap();
    assert_eq!(look(), before);
    let down = node.status();
    assert_eq!(crate::common::condition(&down, "AgentRunning"), "False", "{down:#}");
    assert_eq!(down["agent"], json!(null), "{down:#}");
    assert_eq!(crate::common::condition(&down, "HooksAttached"), "True", "{down:#}");
    assert_eq!(down["lastSyncTime"], running["lastSyncTime"]);
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("not running; the kernel keeps serving what it has"), "{table}");
}

#[test]
fn unconnected_udp_sockets_keep_their_backend_over_a_restart() {
    let (node, mut agent) = WebNode::serving(4, &[]);
    let talkers = node.udp_talkers(CART, 16);
    agent.kill().unwrap();
    let _next = node.start_agent();
    for (socket, before) in &talkers {
        assert_eq!(node.ask_udp(socket, CART), *before, "another backend after the restart");
    }
}

#[test]
fn session_affinity_survives_a_restart() {
    let node = WebNode::new(8);
    let mut service = objects::service("cart", CART);
    service["spec"]["sessionAffinity"] = json!("ClientIP");
    node.put("cart.yaml", &[service, objects::slice("cart", &node.web_addresses())]);
    let mut agent = node.start_agent();
    let before = node.spread(CART, 5);
    assert_eq!(before.len(), 1, "affinity does not hold: {before:?}");
    agent.stop().unwrap();
    let _next = node.start_agent();
    let after = node.spread(CART, 5);
    assert!(after.keys().eq(before.keys()), "before the restart {before:?}, after {after:?}");
}

#[test]
fn counters_continue_over_a_restart() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    let of_cart = translated("cart", "TCP");
    node.spread(CART, 7);
    let count = |agent: &Agent| series(&agent.metrics().unwrap(), &of_cart);
    assert_eq!(count(&agent), Some(7.0));
    agent.kill().unwrap();
    node.spread(CART, 2);
    let next = node.start_agent();
    node.assert_served(CART);
    assert_eq!(count(&next), Some(10.0), "7 before, 2 while it was down, 1 after");
}

#[test]
fn no_connect_fails_while_agents_restart() {
    let (node, mut agent) = WebNode::serving(2, &[]);
    let hammer = Hammer::start(&node.client, vec![cart_at_80()]);
    for round in 0..5 {
        if round % 2 == 0 {
            agent.stop().unwrap();
        } else {
            agent.kill().unwrap();
        }
        hammer.wait_for(50);
        agent = node.start_agent();
        hammer.wait_for(50);
    }
    hammer.assert_nothing_failed();
}
