//! Calls that are bypassed because of the agent: its own calls, and all calls when there was no agent for too
//! long.

use std::{
    fs, io,
    mem::offset_of,
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use crate::common::{
    EHOSTUNREACH, REPAIRS, WebNode, error_of, eventually, holds, ip, options, series,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sockline::dataplane::Pins;
use sockline_ebpf::agent_state::AgentState;
use sockline_testbed::{
    Agent, AgentOptions, Socket, TcpServer, UdpClient, bpf::RawMap, objects, strace::HeldUp,
};

const CART: &str = "10.96.0.1";
/// A service without endpoints.
const EMPTY: &str = "10.96.0.2";

fn at_80(service: &str) -> SocketAddr {
    SocketAddr::new(ip(service), 80)
}

/// The agent's state that the programs read, written by the test.
struct State {
    map: RawMap,
}

impl State {
    fn of(node: &WebNode) -> Self {
        let path = Pins::in_bpffs(node.bpffs()).map("AGENT_STATE");
        Self { map: RawMap::pinned(&path).unwrap() }
    }

    fn get(&self, offset: usize) -> u64 {
        let value = self.map.get(&0u32.to_ne_bytes()).unwrap().unwrap();
        u64::from_ne_bytes(value[offset..][..8].try_into().unwrap())
    }

    fn set(&self, offset: usize, word: u64) {
        let key = 0u32.to_ne_bytes();
        let mut value = self.map.get(&key).unwrap().unwrap();
        value[offset..][..8].copy_from_slice(&word.to_ne_bytes());
        self.map.set(&key, &value).unwrap();
    }
}

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

/// The shortest deadline that is accepted.
const FAIL_OPEN: [&str; 2] = ["--fail-open-after", "10s"];
/// A service that another proxy serves as well, as kube-proxy would.
const TWICE: &str = "10.96.0.3";

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

fn finding(node: &WebNode, check: &str) -> Value {
    let output = node.look(&["check", "-o", "json"]);
    let findings = crate::common::results(&output);
    findings.into_iter().find(|finding| finding["check"] == check).unwrap()
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
    assert_eq!(finding(&node, "agent.fail-open")["state"], "ok");

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
    assert_eq!(finding(&node, "agent.fail-open")["state"], "failed");

    // The age of the state in the maps does not change.
    let mut deaf = agent_without_source(&node);
    node.assert_untouched(CART);
    deaf.stop().unwrap();

    let agent = node.start_agent_with(&FAIL_OPEN);
    node.assert_served(CART);
    assert_eq!(node.ask(TWICE).unwrap(), "web-0");
    assert!(node.status()["failOpen"]["bypassedSince"].is_null());
    let name = "sockline_connections_bypassed_total{namespace=\"shop\",service=\"twice\",\
                protocol=\"TCP\",reason=\"agent-gone\"}";
    assert_eq!(series(&agent.metrics().unwrap(), name), Some(1.0));
}

/// A service whose endpoints are in a separate file.
const CUT: &str = "10.96.0.4";
const BROKEN: &str = "---\nkind: Service\nmetadata: {name: [\n";

/// Three services that an agent served before it was killed. Now the source may lack the second one, and the
/// endpoints of the third.
fn partly_unreadable() -> (WebNode, Agent) {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    node.put_service("twice", TWICE);
    node.put("cut.yaml", &[objects::service("cut", CUT)]);
    node.put("cut-slice.yaml", &[objects::slice("cut", &node.web_addresses())]);
    let mut agent = node.start_agent_with(&FAIL_OPEN);
    agent.kill().unwrap();
    node.remove("twice.yaml");
    node.put_text("cut-slice.yaml", BROKEN);
    (node, agent)
}

/// How many service ports are not as in the objects: held back, retained, and released. Each service has two.
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
    assert_eq!(finding(&node, "agent.fail-open")["state"], "ok");
    assert_eq!(finding(&node, "agent.ready")["state"], "warning");
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
    let agent = node.start_agent_with(&FAIL_OPEN);
    for held_back in [CART, TWICE, CUT] {
        node.assert_served(held_back);
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
    for held_back in [TWICE, CUT] {
        node.assert_served(held_back);
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
    assert_eq!(finding(&node, "agent.ready")["state"], "warning");

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
    assert_eq!(finding(&node, "agent.fail-open")["state"], "ok");
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
    let mut agent = node.start_agent_with(&FAIL_OPEN);
    assert_eq!(node.ask(CART).unwrap(), "web-0");
    put_unusable(&node, "cart", CART);
    eventually_unconfirmed(&node, [0, 2, 0]);
    let waiting_for_address =
        || node.status()["agent"]["unconfirmedServicePorts"]["waitingForAddress"].as_u64().unwrap();
    assert_eq!(waiting_for_address(), 2);
    assert_eq!(node.ask(CART).unwrap(), "web-0");
    agent.kill().unwrap();
    let agent = node.start_agent_with(&FAIL_OPEN);
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
    assert_eq!(finding(&node, "agent.fail-open")["state"], "failed");
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
