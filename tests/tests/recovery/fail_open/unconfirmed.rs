//! Services that only the previous agent knew: retained until the deadline, and then released.

use std::{mem::offset_of, net::SocketAddr};

use serde_json::{Value, json};
use sockline_ebpf::agent_state::AgentState;
use sockline_testbed::{Agent, UdpClient, objects};

use super::{EMPTY, FAIL_OPEN, State, TWICE, check_result};
use crate::common::{CART, REPAIRS, WebNode, eventually, holds, ip, series};

/// A service whose endpoints are in a separate file.
const CUT: &str = "10.96.0.4";
/// The next agent must be ready before the deadline that the last one set, also on a slow machine.
const LATER: [&str; 2] = ["--fail-open-after", "30s"];
const BROKEN: &str = "---\nkind: Service\nmetadata: {name: [\n";

/// Three services that an agent served before it was killed. Now the source may lack the second one, and the
/// endpoints of the third.
fn partly_unreadable() -> (WebNode, Agent) {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    node.put_service("twice", TWICE);
    node.put("cut.yaml", &[objects::service("cut", CUT)]);
    node.put("cut-slice.yaml", &[objects::slice("cut", &node.web_addresses())]);
    let mut agent = node.start_agent_with(&LATER);
    agent.kill().unwrap();
    node.remove("twice.yaml");
    node.put_text("cut-slice.yaml", BROKEN);
    (node, agent)
}

/// How many service ports are not as in the objects: of an earlier agent, retained, and released. Each service has
/// two.
fn unconfirmed(node: &WebNode) -> [u64; 3] {
    let unconfirmed = &node.status()["agent"]["unconfirmedServicePorts"];
    ["fromLastAgent", "retained", "released"].map(|what| unconfirmed[what].as_u64().unwrap())
}

#[track_caller]
fn eventually_unconfirmed(node: &WebNode, expected: [u64; 3]) {
    eventually("status to tell of unconfirmed services", || {
        let seen = unconfirmed(node);
        holds(seen == expected, format!("{seen:?}"))
    });
}

#[test]
fn unconfirmed_services_older_than_the_deadline_are_released_and_the_others_served() {
    let (node, _killed) = partly_unreadable();
    State::of(&node).set(offset_of!(AgentState, fail_open_deadline), 1);
    node.assert_untouched(CART);
    let agent = node.start_agent_with(&FAIL_OPEN);
    node.assert_served(CART);
    for released in [TWICE, CUT] {
        node.assert_untouched(released);
    }
    eventually_unconfirmed(&node, [0, 0, 4]);
    assert_eq!(check_result(&node, "agent.fail-open")["state"], "ok");
    assert_eq!(check_result(&node, "agent.ready")["state"], "warning");
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("4 service ports are bypassed until"), "{table}");
    // A change does not restore them.
    node.put_service("later", "10.96.0.5");
    node.eventually_served("10.96.0.5");
    node.assert_untouched(CUT);
    // Now the source shows that one has no endpoints, and that the other one is deleted.
    node.put("cut-slice.yaml", &[objects::slice("cut", &[])]);
    node.eventually_refused(CUT);
    node.assert_untouched(TWICE);
    eventually_unconfirmed(&node, [0, 0, 0]);
    node.put("cut-slice.yaml", &[objects::slice("cut", &node.web_addresses())]);
    node.eventually_served(CUT);
}

#[test]
fn retained_services_are_served_until_the_deadline_and_nothing_else_is_bypassed() {
    let (node, _killed) = partly_unreadable();
    let agent = node.start_agent_with(&LATER);
    for service in [CART, TWICE, CUT] {
        node.assert_served(service);
    }
    eventually_unconfirmed(&node, [4, 0, 0]);
    for released in [TWICE, CUT] {
        eventually("it to be released", || {
            node.assert_served(CART);
            node.untouched(released)
        });
    }
    eventually_unconfirmed(&node, [0, 0, 4]);
    let status = node.status();
    assert_eq!(status["failOpen"]["bypassedCalls"], 0, "{status:#}");
    assert!(status["failOpen"]["bypassedSince"].is_null(), "{status:#}");
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
    // A released service is served again when its endpoints are there.
    node.put("cut-slice.yaml", &[objects::slice("cut", &node.web_addresses())]);
    node.eventually_served(CUT);
    eventually_unconfirmed(&node, [0, 0, 0]);
}

#[test]
fn without_a_deadline_retained_services_stay() {
    let (node, _killed) = partly_unreadable();
    let _agent = node.start_agent();
    eventually_unconfirmed(&node, [4, 0, 0]);
    node.put_service("later", "10.96.0.5");
    node.eventually_served("10.96.0.5");
    for service in [TWICE, CUT] {
        node.assert_served(service);
    }
}

#[test]
fn a_service_with_an_unusable_object_is_reported_and_released_after_the_deadline() {
    const LONG: [&str; 2] = ["--fail-open-after", "1h"];
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let mut agent = node.start_agent_with(&LONG);
    put_unusable(&node, "cart", CART);
    eventually_unconfirmed(&node, [0, 2, 0]);
    node.assert_served(CART);
    assert_eq!(check_result(&node, "agent.ready")["state"], "warning");

    // Not yet older than the deadline.
    agent.kill().unwrap();
    let mut agent = node.start_agent_with(&LONG);
    eventually_unconfirmed(&node, [0, 2, 0]);
    node.assert_served(CART);

    agent.kill().unwrap();
    State::of(&node).set(offset_of!(AgentState, fail_open_deadline), 1);
    let _agent = node.start_agent_with(&FAIL_OPEN);
    eventually_unconfirmed(&node, [0, 0, 2]);
    node.assert_untouched(CART);
    assert_eq!(check_result(&node, "agent.fail-open")["state"], "ok");
    node.put_service("cart", CART);
    node.eventually_served(CART);
    eventually_unconfirmed(&node, [0, 0, 0]);
}

/// Writes `NAME.yaml` with an unusable Service, and its slice.
fn put_unusable(node: &WebNode, name: &str, cluster_ip: &str) {
    let mut unusable = objects::service(name, cluster_ip);
    unusable["spec"]["ports"] = json!([{"port": 0}]);
    let slice = objects::slice(name, &node.web_addresses());
    node.put(&format!("{name}.yaml"), &[unusable, slice]);
}

/// A Service whose only slice is unusable.
fn cut_off(service: Value) -> [Value; 2] {
    let mut slice = objects::slice("cut", &[ip("10.244.1.1")]);
    slice["addressType"] = json!("IPv5");
    [service, slice]
}

#[test]
fn an_agent_back_before_the_deadline_releases_unconfirmed_services_at_the_deadline() {
    let node = WebNode::new(2);
    node.put_service("other", EMPTY);
    let [first, second] = [0, 1].map(|web| node.web_addresses()[web]);
    // Two services at one address, the first of which is older.
    node.put("cart.yaml", &[objects::service("cart", CART), objects::slice("cart", &[first])]);
    let mut later = objects::service("later", CART);
    later["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    node.put("later.yaml", &[later, objects::slice("later", &[second])]);
    let mut agent = node.start_agent_with(&LATER);
    assert_eq!(node.ask(CART).unwrap(), "web-0");
    put_unusable(&node, "cart", CART);
    eventually_unconfirmed(&node, [0, 2, 0]);
    let waiting_for_address =
        || node.status()["agent"]["unconfirmedServicePorts"]["waitingForAddress"].as_u64().unwrap();
    assert_eq!(waiting_for_address(), 2);
    assert_eq!(node.ask(CART).unwrap(), "web-0");
    agent.kill().unwrap();
    let agent = node.start_agent_with(&LATER);
    // The addresses that it kept then belong to the others, although nothing else changes.
    eventually("the other service to have the address", || {
        node.assert_served(EMPTY);
        let who = node.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    eventually_unconfirmed(&node, [0, 0, 2]);
    assert_eq!(waiting_for_address(), 0);
    let status = node.status();
    assert_eq!(status["failOpen"]["bypassedCalls"], 0, "{status:#}");
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
}

#[test]
fn sockets_of_a_released_service_stay_open_while_its_objects_cannot_be_read() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let mut agent = node.start_agent_with(&FAIL_OPEN);
    let dns = SocketAddr::new(ip(CART), 53);
    let client = node.client.run(|| UdpClient::connected(dns).unwrap());
    assert_eq!(client.ask("?").unwrap().who, "web-0");
    agent.kill().unwrap();
    put_unusable(&node, "cart", CART);
    State::of(&node).set(offset_of!(AgentState, fail_open_deadline), 1);
    let agent = node.start_agent_with(&[&FAIL_OPEN[..], &REPAIRS].concat());
    eventually_unconfirmed(&node, [0, 0, 2]);
    node.assert_untouched(CART);
    let passes = || {
        let name = "sockline_socket_scan_duration_seconds_count";
        series(&agent.metrics().unwrap(), name).unwrap_or_default()
    };
    let before = passes();
    eventually("the agent to look for sockets", || holds(passes() >= before + 3.0, passes()));
    assert_eq!(client.ask("?").unwrap().who, "web-0");
    // Then the source shows that the endpoint is deleted.
    node.put("cart.yaml", &[objects::service("cart", CART)]);
    node.eventually_refused(CART);
    eventually("the socket to be closed", || holds(client.ask("?").is_err(), "it is open"));
}

#[test]
fn ports_of_a_released_service_are_counted_while_they_may_exist() {
    let node = WebNode::new(1);
    node.put(
        "cut.yaml",
        &[objects::service("cut", CUT), objects::slice("cut", &node.web_addresses())],
    );
    let mut agent = node.start_agent_with(&FAIL_OPEN);
    agent.kill().unwrap();
    let mut service = objects::service("cut", CUT);
    node.put("cut.yaml", &cut_off(service.clone()));
    State::of(&node).set(offset_of!(AgentState, fail_open_deadline), 1);
    let _agent = node.start_agent_with(&FAIL_OPEN);
    eventually_unconfirmed(&node, [0, 0, 2]);
    // A port gets another name, so the port of that name is new.
    service["spec"]["ports"][0]["name"] = json!("renamed");
    node.put("cut.yaml", &cut_off(service));
    node.eventually_refused(CUT);
    // Like any new port, it then stays until its endpoints can be read.
    eventually_unconfirmed(&node, [0, 1, 1]);
    node.remove("cut.yaml");
    eventually_unconfirmed(&node, [0, 0, 0]);
    node.assert_untouched(CUT);
}
