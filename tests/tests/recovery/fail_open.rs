//! Calls that go through unchanged because of the agent: its own, and all of them once it has been gone
//! for too long.

use std::{
    fs, io,
    mem::offset_of,
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use crate::common::{
    EHOSTUNREACH, REPAIRS, Stage, error_of, eventually, holds, ip, options, series,
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

/// What the programs read of the agent, written by hand.
struct State {
    map: RawMap,
}

impl State {
    fn of(stage: &Stage) -> Self {
        let path = Pins::in_bpffs(stage.node.bpffs()).map("AGENT_STATE");
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

/// A stage with two services, one of them empty, whose agent has ended.
fn abandoned() -> (Stage, Agent) {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    stage.put("empty.yaml", &[objects::service("empty", EMPTY)]);
    let mut agent = stage.agent();
    agent.kill().unwrap();
    stage.assert_served(CART);
    (stage, agent)
}

fn outcome(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn own_socket_of_the_agent_is_not_translated_nor_refused_and_all_others_are() {
    let (stage, _agent) = abandoned();
    let state = State::of(&stage);
    stage.client.run(|| {
        for (calls, service) in (1..).zip([CART, EMPTY]) {
            let own = Socket::tcp(libc::AF_INET).unwrap();
            state.set(offset_of!(AgentState, bypass_cookie), own.cookie().unwrap());
            // As if there were no Sockline: to nowhere.
            assert_eq!(outcome(own.connect(at_80(service))), Some(EHOSTUNREACH), "{service}");
            assert_eq!(state.get(offset_of!(AgentState, own_calls)), calls);
        }
        let other = Socket::tcp(libc::AF_INET).unwrap();
        other.connect(at_80(CART)).unwrap();
        assert_eq!(other.peer().unwrap(), at_80(CART));
    });
    state.set(offset_of!(AgentState, bypass_cookie), 0);
    stage.assert_served(CART);
}

#[test]
fn nothing_is_translated_or_refused_after_the_deadline() {
    let (stage, _agent) = abandoned();
    let state = State::of(&stage);
    state.set(offset_of!(AgentState, fail_open_deadline), 1);
    for service in [CART, EMPTY] {
        let error = stage.ask(service).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EHOSTUNREACH), "{service}: {error}");
    }
    state.set(offset_of!(AgentState, fail_open_deadline), u64::MAX);
    stage.assert_served(CART);
}

/// The shortest that is accepted.
const FAIL_OPEN: [&str; 2] = ["--fail-open-after", "10s"];
/// A service that somebody else serves as well, as kube-proxy would.
const TWICE: &str = "10.96.0.3";

/// Serves the address in the client's own network namespace.
fn kube_proxy_for_twice(stage: &Stage) -> TcpServer {
    stage.put_service("twice", TWICE);
    let add = ["address", "add", &format!("{TWICE}/32"), "dev", "lo"];
    let added = stage.client.output(Command::new("ip").args(add)).unwrap();
    assert!(added.status.success(), "{}", error_of(&added));
    stage.client.tcp_server(80).unwrap()
}

/// An agent that never hears of the cluster.
fn agent_without_source(stage: &Stage) -> Agent {
    let file = stage.node.temp().join("kubeconfig");
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
    stage.node.agent(&options).unwrap()
}

fn finding(stage: &Stage, check: &str) -> Value {
    let output = stage.look(&["check", "-o", "json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    findings.into_iter().find(|finding| finding["check"] == check).unwrap()
}

#[test]
fn calls_are_bypassed_and_counted_from_the_deadline_until_an_agent_has_synced() {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    stage.put("empty.yaml", &[objects::service("empty", EMPTY)]);
    let _kube_proxy = kube_proxy_for_twice(&stage);
    let mut agent = stage.agent_with(&FAIL_OPEN);
    assert_eq!(stage.ask(TWICE).unwrap(), "web-0");
    let before = stage.client.run(|| TcpStream::connect(at_80(CART)).unwrap());
    let (talker, _) = stage.udp_talkers(CART, 1).remove(0);
    assert_eq!(finding(&stage, "agent.fail-open")["state"], "ok");

    agent.kill().unwrap();
    stage.eventually_untouched(CART);
    stage.assert_untouched(EMPTY);
    assert_eq!(stage.ask(TWICE).unwrap(), "client", "kube-proxy serves what Sockline does not");
    // Also a socket that has a backend already, and what it was told stays true.
    let error = stage.client.run(|| talker.ask_to(SocketAddr::new(ip(CART), 53), "?").unwrap_err());
    assert_eq!(error.raw_os_error(), Some(EHOSTUNREACH), "{error}");
    assert_eq!(before.peer_addr().unwrap(), at_80(CART));
    let told = stage.status();
    assert_eq!(told["agent_running"], false);
    assert!(told["fail_open"]["bypassed_since"].is_string(), "{told:#}");
    assert!(told["fail_open"]["calls"].as_u64().unwrap() >= 4, "{told:#}");
    assert_eq!(finding(&stage, "agent.fail-open")["state"], "failed");

    // What is in the maps is as old as before.
    let mut deaf = agent_without_source(&stage);
    stage.assert_untouched(CART);
    deaf.stop().unwrap();

    let agent = stage.agent_with(&FAIL_OPEN);
    stage.assert_served(CART);
    assert_eq!(stage.ask(TWICE).unwrap(), "web-0");
    assert!(stage.status()["fail_open"]["bypassed_since"].is_null());
    let name = "sockline_connections_bypassed_total{namespace=\"shop\",service=\"twice\",\
                protocol=\"TCP\",reason=\"agent-gone\"}";
    assert_eq!(series(&agent.metrics().unwrap(), name), Some(1.0));
}

/// A service whose endpoints are in a file of their own.
const CUT: &str = "10.96.0.4";
const BROKEN: &str = "---\nkind: Service\nmetadata: {name: [\n";

/// Three services that an agent knew of before it was killed. Now the source may lack the second one,
/// and the endpoints of the third.
fn partly_unreadable() -> (Stage, Agent) {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    stage.put_service("twice", TWICE);
    stage.put("cut.yaml", &[objects::service("cut", CUT)]);
    stage.put("cut-slice.yaml", &[objects::slice("cut", &stage.addresses())]);
    let mut agent = stage.agent_with(&FAIL_OPEN);
    agent.kill().unwrap();
    stage.remove("twice.yaml");
    stage.put_text("cut-slice.yaml", BROKEN);
    (stage, agent)
}

/// How many service ports are not as the objects have them: held back, retained, and released. Each
/// service has two.
fn unconfirmed(stage: &Stage) -> [u64; 3] {
    let unconfirmed = &stage.status()["agent"]["unconfirmed"];
    ["held_back", "retained", "released"].map(|what| unconfirmed[what].as_u64().unwrap())
}

#[track_caller]
fn eventually_unconfirmed(stage: &Stage, expected: [u64; 3]) {
    eventually("status to tell of unconfirmed services", || {
        let seen = unconfirmed(stage);
        holds(seen == expected, format!("{seen:?}"))
    });
}

#[test]
fn what_is_older_than_the_deadline_is_released_and_all_else_is_served() {
    let (stage, _killed) = partly_unreadable();
    State::of(&stage).set(offset_of!(AgentState, fail_open_deadline), 1);
    stage.assert_untouched(CART);
    let agent = stage.agent_with(&FAIL_OPEN);
    stage.assert_served(CART);
    for released in [TWICE, CUT] {
        stage.assert_untouched(released);
    }
    eventually_unconfirmed(&stage, [0, 0, 4]);
    assert_eq!(finding(&stage, "agent.fail-open")["state"], "ok");
    assert_eq!(finding(&stage, "agent.ready")["state"], "warning");
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
    let table = String::from_utf8(stage.look(&["status"]).stdout).unwrap();
    assert!(table.contains("4 service ports are bypassed until"), "{table}");
    // A change does not bring them back.
    stage.put_service("later", "10.96.0.5");
    stage.eventually_served("10.96.0.5");
    stage.assert_untouched(CUT);
    // Now it is known that one has no endpoints, and that the other one is gone.
    stage.put("cut-slice.yaml", &[objects::slice("cut", &[])]);
    stage.eventually_refused(CUT);
    stage.assert_untouched(TWICE);
    eventually_unconfirmed(&stage, [0, 0, 0]);
    stage.put("cut-slice.yaml", &[objects::slice("cut", &stage.addresses())]);
    stage.eventually_served(CUT);
}

#[test]
fn what_is_held_back_is_served_until_the_deadline_and_nothing_else_is_ever_bypassed() {
    let (stage, _killed) = partly_unreadable();
    let agent = stage.agent_with(&FAIL_OPEN);
    for held_back in [CART, TWICE, CUT] {
        stage.assert_served(held_back);
    }
    eventually_unconfirmed(&stage, [4, 0, 0]);
    for released in [TWICE, CUT] {
        eventually("it to be released", || {
            stage.assert_served(CART);
            stage.untouched(released)
        });
    }
    eventually_unconfirmed(&stage, [0, 0, 4]);
    let status = stage.status();
    assert_eq!(status["fail_open"]["calls"], 0, "{status:#}");
    assert!(status["fail_open"]["bypassed_since"].is_null(), "{status:#}");
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
    // What is released comes back with its endpoints.
    stage.put("cut-slice.yaml", &[objects::slice("cut", &stage.addresses())]);
    stage.eventually_served(CUT);
    eventually_unconfirmed(&stage, [0, 0, 0]);
}

#[test]
fn without_a_deadline_what_is_held_back_stays() {
    let (stage, _killed) = partly_unreadable();
    let _agent = stage.agent();
    eventually_unconfirmed(&stage, [4, 0, 0]);
    stage.put_service("later", "10.96.0.5");
    stage.eventually_served("10.96.0.5");
    for held_back in [TWICE, CUT] {
        stage.assert_served(held_back);
    }
}

#[test]
fn service_with_an_unusable_object_is_told_and_released_if_it_is_older_than_the_deadline() {
    const LONG: [&str; 2] = ["--fail-open-after", "1h"];
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    let mut agent = stage.agent_with(&LONG);
    put_unusable(&stage, "cart", CART);
    eventually_unconfirmed(&stage, [0, 2, 0]);
    stage.assert_served(CART);
    assert_eq!(finding(&stage, "agent.ready")["state"], "warning");

    // Not yet older than the deadline.
    agent.kill().unwrap();
    let mut agent = stage.agent_with(&LONG);
    eventually_unconfirmed(&stage, [0, 2, 0]);
    stage.assert_served(CART);

    agent.kill().unwrap();
    State::of(&stage).set(offset_of!(AgentState, fail_open_deadline), 1);
    let _agent = stage.agent_with(&FAIL_OPEN);
    eventually_unconfirmed(&stage, [0, 0, 2]);
    stage.assert_untouched(CART);
    assert_eq!(finding(&stage, "agent.fail-open")["state"], "ok");
    stage.put_service("cart", CART);
    stage.eventually_served(CART);
    eventually_unconfirmed(&stage, [0, 0, 0]);
}

/// Writes `NAME.yaml` with a Service of which nothing can be used, and its slice.
fn put_unusable(stage: &Stage, name: &str, cluster_ip: &str) {
    let mut unusable = objects::service(name, cluster_ip);
    unusable["spec"]["ports"] = json!([{"port": 0}]);
    let slice = objects::slice(name, &stage.addresses());
    stage.put(&format!("{name}.yaml"), &[unusable, slice]);
}

/// A Service whose only slice cannot be used.
fn cut_off(service: Value) -> [Value; 2] {
    let mut slice = objects::slice("cut", &[ip("10.244.1.1")]);
    slice["addressType"] = json!("IPv5");
    [service, slice]
}

#[test]
fn agent_that_is_back_before_the_deadline_releases_then_what_no_object_confirms() {
    let stage = Stage::new(2);
    stage.put_service("other", EMPTY);
    let [first, second] = [0, 1].map(|web| stage.addresses()[web]);
    // Two services at one address, the first of which is older.
    stage.put("cart.yaml", &[objects::service("cart", CART), objects::slice("cart", &[first])]);
    let mut later = objects::service("later", CART);
    later["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    stage.put("later.yaml", &[later, objects::slice("later", &[second])]);
    let mut agent = stage.agent_with(&FAIL_OPEN);
    assert_eq!(stage.ask(CART).unwrap(), "web-0");
    put_unusable(&stage, "cart", CART);
    eventually_unconfirmed(&stage, [0, 2, 0]);
    let waiting_for_address =
        || stage.status()["agent"]["unconfirmed"]["waiting_for_address"].as_u64().unwrap();
    assert_eq!(waiting_for_address(), 2);
    assert_eq!(stage.ask(CART).unwrap(), "web-0");
    agent.kill().unwrap();
    let agent = stage.agent_with(&FAIL_OPEN);
    // What it kept others out of is theirs then, though nothing else changes.
    eventually("the other service to have the address", || {
        stage.assert_served(EMPTY);
        let who = stage.ask(CART).map_err(|error| error.to_string())?;
        holds(who == "web-1", who)
    });
    eventually_unconfirmed(&stage, [0, 0, 2]);
    assert_eq!(waiting_for_address(), 0);
    let status = stage.status();
    assert_eq!(status["fail_open"]["calls"], 0, "{status:#}");
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
}

#[test]
fn sockets_of_a_released_service_are_not_closed_as_long_as_its_objects_cannot_be_read() {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    let mut agent = stage.agent_with(&FAIL_OPEN);
    let dns = SocketAddr::new(ip(CART), 53);
    let client = stage.client.run(|| UdpClient::connected(dns).unwrap());
    assert_eq!(client.ask("?").unwrap().who, "web-0");
    agent.kill().unwrap();
    put_unusable(&stage, "cart", CART);
    State::of(&stage).set(offset_of!(AgentState, fail_open_deadline), 1);
    let agent = stage.agent_with(&[&FAIL_OPEN[..], &REPAIRS].concat());
    eventually_unconfirmed(&stage, [0, 0, 2]);
    stage.assert_untouched(CART);
    let passes = || {
        let name = "sockline_socket_scan_duration_seconds_count";
        series(&agent.metrics().unwrap(), name).unwrap_or_default()
    };
    let before = passes();
    eventually("the agent to look for sockets", || holds(passes() >= before + 3.0, passes()));
    assert_eq!(client.ask("?").unwrap().who, "web-0");
    // Then it is known that the endpoint is gone.
    stage.put("cart.yaml", &[objects::service("cart", CART)]);
    stage.eventually_refused(CART);
    eventually("the socket to be closed", || holds(client.ask("?").is_err(), "it is open"));
}

#[test]
fn ports_of_a_released_service_are_counted_for_as_long_as_they_may_exist() {
    let stage = Stage::new(1);
    stage.put(
        "cut.yaml",
        &[objects::service("cut", CUT), objects::slice("cut", &stage.addresses())],
    );
    let mut agent = stage.agent_with(&FAIL_OPEN);
    agent.kill().unwrap();
    let mut service = objects::service("cut", CUT);
    stage.put("cut.yaml", &cut_off(service.clone()));
    State::of(&stage).set(offset_of!(AgentState, fail_open_deadline), 1);
    let _agent = stage.agent_with(&FAIL_OPEN);
    eventually_unconfirmed(&stage, [0, 0, 2]);
    // A port gets another name: that one was in no kernel.
    service["spec"]["ports"][0]["name"] = json!("renamed");
    stage.put("cut.yaml", &cut_off(service));
    stage.eventually_refused(CUT);
    // As any other that is new, it then stays until its endpoints can be read.
    eventually_unconfirmed(&stage, [0, 1, 1]);
    stage.remove("cut.yaml");
    eventually_unconfirmed(&stage, [0, 0, 0]);
    stage.assert_untouched(CUT);
}

#[test]
fn agent_whose_calls_are_bypassed_is_not_ready() {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    let agent = stage.agent_with(&FAIL_OPEN);
    // Far longer than the deadline; and a loop is not called stuck for the first minute.
    let held_up = HeldUp::start(&agent, "control", Duration::from_secs(600)).unwrap();
    stage.eventually_untouched(CART);
    let reply = agent.get("/readyz").unwrap();
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert!(reply.body.contains("all calls are bypassed for "), "{}", reply.body);
    let table = String::from_utf8(stage.look(&["status"]).stdout).unwrap();
    assert!(table.contains("no: all calls are bypassed"), "{table}");
    assert_eq!(finding(&stage, "agent.fail-open")["state"], "failed");
    drop(held_up);
    stage.eventually_served(CART);
    eventually("readyz to be well", || {
        let reply = agent.get("/readyz").unwrap();
        holds(reply.status == 200, reply.body)
    });
}

#[test]
fn stuck_agent_is_as_good_as_gone_until_it_goes_on() {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    let agent = stage.agent_with(&FAIL_OPEN);
    let signal = |signal| kill(Pid::from_raw(agent.pid().cast_signed()), signal).unwrap();
    signal(Signal::SIGSTOP);
    stage.eventually_untouched(CART);
    signal(Signal::SIGCONT);
    stage.eventually_served(CART);
}

#[test]
fn deadline_is_taken_back_by_an_agent_that_has_none_before_it_has_synced() {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    let mut agent = stage.agent_with(&FAIL_OPEN);
    let deadline = || State::of(&stage).get(offset_of!(AgentState, fail_open_deadline));
    assert_ne!(deadline(), 0);
    agent.kill().unwrap();
    State::of(&stage).set(offset_of!(AgentState, fail_open_deadline), 1);
    stage.assert_untouched(CART);
    let _agent = stage.agent();
    assert_eq!(deadline(), 0);
    stage.assert_served(CART);
}

/// It must be put off in time, again and again: not only at the start, or at changes.
#[test]
fn deadline_is_put_off_by_an_agent_that_changes_nothing_so_that_nothing_is_ever_bypassed() {
    let stage = Stage::new(1);
    stage.put_service("cart", CART);
    let _agent = stage.agent_with(&FAIL_OPEN);
    let deadline = || State::of(&stage).get(offset_of!(AgentState, fail_open_deadline));
    let after = State::of(&stage).get(offset_of!(AgentState, fail_open_after));
    // By then, the one that was set at the start is over.
    let later = deadline() + 2 * after;
    eventually("the agent to have run for longer than the deadline", || {
        stage.assert_served(CART);
        holds(deadline() > later, deadline())
    });
    let status = stage.status();
    assert_eq!(status["fail_open"]["calls"], 0, "{status:#}");
}

#[test]
fn too_short_a_time_is_one_clear_error() {
    let output = Stage::new(0).sockline(&["agent", "--fail-open-after", "2s"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(error_of(&output).contains("2s is shorter than 10s"), "{}", error_of(&output));
}
