//! When calls are bypassed, and when they are served again.

use std::{
    fs, io,
    mem::offset_of,
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sockline_ebpf::agent_state::AgentState;
use sockline_testbed::{Agent, AgentOptions, Socket, TcpServer, objects, strace::HeldUp};

use super::{EMPTY, FAIL_OPEN, State, TWICE, at_80, check_result};
use crate::common::{
    CART, EHOSTUNREACH, WebNode, error_of, eventually, holds, ip, options, series,
};

/// A node with two services, one of them empty, whose agent has ended.
fn abandoned() -> (WebNode, Agent) {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    node.put("empty.yaml", &[objects::service("empty", EMPTY)]);
    let mut agent = node.start_agent();
    agent.kill().unwrap();
    node.assert_served(CART);
    (node, agent)
}

fn outcome(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn only_the_agents_own_sockets_are_neither_translated_nor_refused() {
    let (node, _agent) = abandoned();
    let state = State::of(&node);
    node.client.run(|| {
        for (calls, service) in (1..).zip([CART, EMPTY]) {
            let own = Socket::tcp(libc::AF_INET).unwrap();
            state.set(offset_of!(AgentState, bypass_cookie), own.cookie().unwrap());
            // As without Sockline: there is no route.
            assert_eq!(outcome(own.connect(at_80(service))), Some(EHOSTUNREACH), "{service}");
            assert_eq!(state.get(offset_of!(AgentState, own_calls)), calls);
        }
        let other = Socket::tcp(libc::AF_INET).unwrap();
        other.connect(at_80(CART)).unwrap();
        assert_eq!(other.peer().unwrap(), at_80(CART));
    });
    state.set(offset_of!(AgentState, bypass_cookie), 0);
    node.assert_served(CART);
}

#[test]
fn nothing_is_translated_or_refused_after_the_deadline() {
    let (node, _agent) = abandoned();
    let state = State::of(&node);
    state.set(offset_of!(AgentState, fail_open_deadline), 1);
    for service in [CART, EMPTY] {
        let error = node.ask(service).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EHOSTUNREACH), "{service}: {error}");
    }
    state.set(offset_of!(AgentState, fail_open_deadline), u64::MAX);
    node.assert_served(CART);
}

/// Serves the address in the client's own network namespace.
fn kube_proxy_for_twice(node: &WebNode) -> TcpServer {
    node.put_service("twice", TWICE);
    let add = ["address", "add", &format!("{TWICE}/32"), "dev", "lo"];
    let added = node.client.output(Command::new("ip").args(add)).unwrap();
    assert!(added.status.success(), "{}", error_of(&added));
    node.client.tcp_server(80).unwrap()
}

/// An agent that receives no objects.
fn agent_without_source(node: &WebNode) -> Agent {
    let file = node.temp().join("kubeconfig");
    let cluster = "{name: c, cluster: {server: 'http://127.0.0.1:1'}}";
    let context = "{name: c, context: {cluster: c, user: u}}";
    fs::write(
        &file,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{cluster}]\n\
             contexts: [{context}]\nusers: [{{name: u, user: {{}}}}]\n"
        ),
    )
    .unwrap();
    let options =
        AgentOptions { kubeconfig: Some(file), until_ready: false, ..options(&FAIL_OPEN) };
    node.agent(&options).unwrap()
}

#[test]
fn calls_are_bypassed_and_counted_from_the_deadline_until_an_agent_has_synced() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    node.put("empty.yaml", &[objects::service("empty", EMPTY)]);
    let _kube_proxy = kube_proxy_for_twice(&node);
    let mut agent = node.start_agent_with(&FAIL_OPEN);
    assert_eq!(node.ask(TWICE).unwrap(), "web-0");
    let before = node.client.run(|| TcpStream::connect(at_80(CART)).unwrap());
    let (talker, _) = node.udp_talkers(CART, 1).remove(0);
    assert_eq!(check_result(&node, "agent.fail-open")["state"], "ok");

    agent.kill().unwrap();
    node.eventually_untouched(CART);
    node.assert_untouched(EMPTY);
    assert_eq!(node.ask(TWICE).unwrap(), "client", "kube-proxy serves what Sockline does not");
    // Also a socket that has a backend already; its peer name stays the same.
    let error = node.client.run(|| talker.ask_to(SocketAddr::new(ip(CART), 53), "?").unwrap_err());
    assert_eq!(error.raw_os_error(), Some(EHOSTUNREACH), "{error}");
    assert_eq!(before.peer_addr().unwrap(), at_80(CART));
    let reported = node.status();
    assert_eq!(crate::common::condition(&reported, "AgentRunning"), "False");
    assert!(reported["failOpen"]["bypassedSince"].is_string(), "{reported:#}");
    assert!(reported["failOpen"]["bypassedCalls"].as_u64().unwrap() >= 4, "{reported:#}");
    assert_eq!(check_result(&node, "agent.fail-open")["state"], "failed");

    // The age of the state in the maps does not change.
    let mut deaf = agent_without_source(&node);
    node.assert_untouched(CART);
    deaf.stop().unwrap();

    let agent = node.start_agent_with(&FAIL_OPEN);
    node.assert_served(CART);
    assert_eq!(node.ask(TWICE).unwrap(), "web-0");
    assert!(node.status()["failOpen"]["bypassedSince"].is_null());
    let name = "sockline_connections_bypassed_total{namespace=\"shop\",service=\"twice\",\
                port=\"web\",protocol=\"TCP\",reason=\"agent-gone\"}";
    assert_eq!(series(&agent.metrics().unwrap(), name), Some(1.0));
}

#[test]
fn an_agent_whose_calls_are_bypassed_is_not_ready() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let agent = node.start_agent_with(&FAIL_OPEN);
    // Far longer than the deadline; and a loop is not called stuck for the first minute.
    let held_up = HeldUp::start(&agent, "control", Duration::from_secs(600)).unwrap();
    node.eventually_untouched(CART);
    let reply = agent.get("/readyz").unwrap();
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert!(reply.body.contains("all calls are bypassed for "), "{}", reply.body);
    let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(table.contains("no: all calls are bypassed"), "{table}");
    assert_eq!(check_result(&node, "agent.fail-open")["state"], "failed");
    drop(held_up);
    node.eventually_served(CART);
    eventually("readyz to be well", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 200, reply.body)
    });
}

#[test]
fn calls_are_bypassed_while_the_agent_is_stuck() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let agent = node.start_agent_with(&FAIL_OPEN);
    let signal = |signal| kill(Pid::from_raw(agent.pid().cast_signed()), signal).unwrap();
    signal(Signal::SIGSTOP);
    node.eventually_untouched(CART);
    signal(Signal::SIGCONT);
    node.eventually_served(CART);
}

#[test]
fn an_agent_without_a_deadline_removes_it_before_its_first_sync() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let mut agent = node.start_agent_with(&FAIL_OPEN);
    let deadline = || State::of(&node).get(offset_of!(AgentState, fail_open_deadline));
    assert_ne!(deadline(), 0);
    agent.kill().unwrap();
    State::of(&node).set(offset_of!(AgentState, fail_open_deadline), 1);
    node.assert_untouched(CART);
    let _agent = node.start_agent();
    assert_eq!(deadline(), 0);
    node.assert_served(CART);
}

/// It must be renewed in time, periodically: not only at the start, or at changes.
#[test]
fn an_agent_that_changes_nothing_still_renews_the_deadline() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let _agent = node.start_agent_with(&FAIL_OPEN);
    let deadline = || State::of(&node).get(offset_of!(AgentState, fail_open_deadline));
    let after = State::of(&node).get(offset_of!(AgentState, fail_open_after));
    // By then, the deadline from the start has passed.
    let later = deadline() + 2 * after;
    eventually("the agent to have run for longer than the deadline", || {
        node.assert_served(CART);
        holds(deadline() > later, deadline())
    });
    let status = node.status();
    assert_eq!(status["failOpen"]["bypassedCalls"], 0, "{status:#}");
}

#[test]
fn a_deadline_that_is_too_short_is_one_clear_error() {
    let output = WebNode::new(0).sockline(&["agent", "--fail-open-after", "2s"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(error_of(&output).contains("2s is shorter than 10s"), "{}", error_of(&output));
}
