//! Upgrades and rollbacks between builds of the same layout of the maps and of two layouts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::common::{CART, WebNode, eventually, hammer::Hammer, holds, ip, options};
use serde_json::Value;
use sockline_testbed::{
    ANSWER_TIMEOUT, Agent, AgentOptions, Build, Metrics, UdpClient, objects, patience,
};

const SHIP: &str = "10.96.0.2";

fn at_80(service: &str) -> SocketAddr {
    SocketAddr::new(ip(service), 80)
}

fn build(build: Build) -> AgentOptions {
    AgentOptions { binary: Some(build.binary().unwrap()), ..options(&[]) }
}

/// A node with two services and a ready agent of a build.
fn serving(first: Build) -> (WebNode, Agent) {
    let node = WebNode::new(3);
    node.put_service("cart", CART);
    node.put_service("ship", SHIP);
    let agent = node.agent(&build(first)).unwrap();
    (node, agent)
}

fn hammer(node: &WebNode) -> Hammer {
    Hammer::start(&node.client, vec![at_80(CART), at_80(SHIP)])
}

/// The folders of layouts below the pins.
fn layouts(node: &WebNode) -> BTreeSet<String> {
    let folder = node.bpffs().join("sockline");
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('v')).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// An open connection that has received the server's name.
fn open_connection(node: &WebNode) -> TcpStream {
    node.client.run(|| {
        let mut stream = TcpStream::connect(at_80(CART)).unwrap();
        stream.set_read_timeout(Some(patience(ANSWER_TIMEOUT))).unwrap();
        stream.read_exact(&mut [0; "web-0\n".len()]).unwrap();
        stream
    })
}

#[track_caller]
fn assert_echo(stream: &mut TcpStream) {
    stream.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
}

/// The JSON that a command of the agent's own build prints about the node: another build may have
/// another layout.
#[track_caller]
fn json_of(agent: &Agent, args: &[&str]) -> Value {
    let text = agent.cli(&[args, &["-o", "json"]].concat()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// All checks of a node with this ready agent.
#[track_caller]
fn assert_sound(node: &WebNode, agent: &Agent, layout: &str) {
    assert_eq!(layouts(node), set(&[layout]));
    let listing = json_of(agent, &["services"]);
    let frontends = listing["items"].as_array().unwrap();
    let names: BTreeSet<String> = frontends.iter().map(crate::common::service_of).collect();
    assert_eq!(names, BTreeSet::from(["shop/cart", "shop/ship"].map(ToOwned::to_owned)));
    for service in [CART, SHIP] {
        assert_eq!(node.spread(service, SPREAD).len(), 3, "not all pods of {service} get connects");
    }
    let cgroup = node.cgroup().to_str().unwrap();
    agent.cli(&["check", "--cgroup-root", cgroup]).unwrap();
}

/// Connects to each service in [`assert_sound`].
const SPREAD: usize = 40;

const OWN: &str = "v5";
const OTHER: &str = "v1005";

#[test]
fn no_connect_fails_during_an_upgrade_to_another_layout_and_a_rollback() {
    let (node, mut agent) = serving(Build::This);
    let mut open = open_connection(&node);
    let hammer = hammer(&node);
    for (next, layout) in
        [(Build::OtherLayout, OTHER), (Build::This, OWN), (Build::OtherLayout, OTHER)]
    {
        agent.stop().unwrap();
        hammer.wait_for(50);
        agent = node.agent(&build(next)).unwrap();
        hammer.wait_for(50);
        assert_sound(&node, &agent, layout);
        assert_echo(&mut open);
    }
    hammer.assert_nothing_failed();
}

#[test]
fn no_connect_fails_during_an_upgrade_to_another_build_and_a_rollback() {
    let (node, mut agent) = serving(Build::This);
    let talkers = node.udp_talkers(CART, 8);
    let mut open = open_connection(&node);
    let hammer = hammer(&node);
    for next in [Build::OtherPrograms, Build::This] {
        agent.stop().unwrap();
        agent = node.agent(&build(next)).unwrap();
        hammer.wait_for(50);
        assert_sound(&node, &agent, OWN);
    }
    hammer.assert_nothing_failed();
    for (socket, before) in &talkers {
        assert_eq!(node.ask_udp(socket, CART), *before, "another backend after the upgrade");
    }
    assert_echo(&mut open);
    assert_eq!(open.peer_addr().unwrap(), at_80(CART));
}

/// A UDP socket that is connected to a service, and the pod that answers.
fn connected_udp(node: &WebNode) -> (UdpClient, String) {
    let to = SocketAddr::new(ip(CART), 53);
    let client = node.client.run(|| UdpClient::connected(to).unwrap());
    let who = client.ask("?").unwrap().who;
    (client, who)
}

/// The table under "Roll back" of `deploy/README.md`, where the layouts differ.
#[test]
fn sockets_from_before_a_change_of_layout_keep_working_without_their_records() {
    let (node, mut agent) = serving(Build::This);
    let pods = node.web_addresses();
    let mut open = open_connection(&node);
    let (connected, backend) = connected_udp(&node);
    let (unconnected, _) = node.udp_talkers(CART, 1).remove(0);
    agent.stop().unwrap();
    agent = node.agent(&build(Build::OtherLayout)).unwrap();

    assert_echo(&mut open);
    let peer = open.peer_addr().unwrap();
    assert!(pods.contains(&peer.ip()), "{peer}");
    let reply = connected.ask("?").unwrap();
    assert_eq!(reply.who, backend);
    assert!(pods.contains(&reply.from.ip()), "{}", reply.from);
    let reply = node.client.run(|| unconnected.ask_to(SocketAddr::new(ip(CART), 53), "?").unwrap());
    assert_eq!(reply.from.ip(), ip(CART));

    // Only a socket of the new layout is closed when its backend is removed.
    let (newer, _) = loop {
        let newer = connected_udp(&node);
        if newer.1 == backend {
            break newer;
        }
    };
    let index: usize = backend.strip_prefix("web-").unwrap().parse().unwrap();
    let rest: Vec<_> = pods.iter().copied().filter(|pod| *pod != pods[index]).collect();
    node.put("cart.yaml", &[objects::service("cart", CART), objects::slice("cart", &rest)]);
    eventually("the newer socket to be closed", || match newer.ask("?") {
        Ok(reply) => Err(format!("{} still answers", reply.who)),
        Err(_) => Ok(()),
    });
    assert_eq!(connected.ask("?").unwrap().who, backend);
    agent.stop().unwrap();
}

#[test]
fn no_connect_fails_when_agents_of_both_layouts_are_killed_during_the_change() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (node, mut agent) = serving(Build::This);
    let mut open = open_connection(&node);
    let hammer = hammer(&node);
    for _ in 0..12 {
        agent.kill().unwrap();
        let next = if random.bool() { Build::OtherLayout } else { Build::This };
        let starting = AgentOptions { until_ready: false, ..build(next) };
        agent = node.spawn_agent(&starting).unwrap();
        thread::sleep(Duration::from_millis(random.u64(0..400)));
    }
    agent.kill().unwrap();
    for (last, layout) in [(Build::OtherLayout, OTHER), (Build::This, OWN)] {
        agent = node.agent(&build(last)).unwrap();
        assert_sound(&node, &agent, layout);
        agent.stop().unwrap();
    }
    assert_echo(&mut open);
    let connects = hammer.assert_nothing_failed();
    // Each was counted in the maps of one layout or the other.
    agent = node.agent(&build(Build::OtherLayout)).unwrap();
    let spread = 2 * 2 * SPREAD;
    let all = connects + spread + 1;
    eventually("each connection to be counted once", || {
        let [cart, ship] = ["cart", "ship"].map(|service| connections(&agent, service));
        holds(cart["opened"] + ship["opened"] == all as f64, format!("{cart:?} {ship:?} of {all}"))
    });
}

/// What is counted of the connections to a service, by the parts of metrics' names.
fn connections(agent: &Agent, service: &str) -> BTreeMap<&'static str, f64> {
    let metrics = Metrics::parse(&agent.metrics().unwrap());
    let labels = [("service", service), ("port", "web"), ("protocol", "TCP")];
    let parts = ["opened", "active", "closed", "untracked", "failed", "refused"];
    let counts = parts.map(|part| {
        let name = match part {
            "active" => "sockline_connections_active".to_owned(),
            _ => format!("sockline_connections_{part}_total"),
        };
        (part, metrics.sum(&name, &labels))
    });
    let others = [
        ("by class", "sockline_traffic_class_connections_opened_total"),
        ("lifetimes", "sockline_connection_lifetime_seconds_count"),
        ("round trips", "sockline_round_trip_seconds_count"),
    ];
    let others = others.map(|(part, name)| (part, metrics.sum(name, &labels)));
    counts.into_iter().chain(others).collect()
}

/// Waits for these counts; others stay as they are `before`.
#[track_caller]
fn assert_counts(
    agent: &Agent,
    before: &BTreeMap<&'static str, f64>,
    changes: &[(&'static str, f64)],
) -> BTreeMap<&'static str, f64> {
    let mut expected = before.clone();
    expected.extend(changes.iter().copied());
    eventually("the counts", || {
        let seen = connections(agent, "cart");
        holds(seen == expected, format!("{seen:#?}\nexpected: {expected:#?}"))
    });
    expected
}

/// Bytes that clients received of the service. Those on open connections are counted about every 10 s.
fn received(agent: &Agent) -> f64 {
    let metrics = Metrics::parse(&agent.metrics().unwrap());
    metrics.sum("sockline_received_bytes_total", &[("service", "cart")])
}

#[test]
fn counts_of_connections_continue_after_a_change_of_layout_and_after_the_next() {
    let (node, mut agent) = serving(Build::This);
    let ended = open_connection(&node);
    let mut open = open_connection(&node);
    drop(ended);
    let none = connections(&agent, "none");
    let mut counts = assert_counts(
        &agent,
        &none,
        &[
            ("opened", 2.0),
            ("by class", 2.0),
            ("active", 1.0),
            ("closed", 1.0),
            ("lifetimes", 1.0),
            ("round trips", 1.0),
        ],
    );
    for (round, next) in [(1.0, Build::OtherLayout), (2.0, Build::This), (3.0, Build::OtherLayout)]
    {
        agent.stop().unwrap();
        agent = node.agent(&build(next)).unwrap();
        // The one that was open will not be seen to end.
        counts = assert_counts(&agent, &counts, &[("active", 0.0), ("untracked", round)]);
        assert_echo(&mut open);
        open = open_connection(&node);
        counts = assert_counts(
            &agent,
            &counts,
            &[("opened", 2.0 + round), ("by class", 2.0 + round), ("active", 1.0)],
        );
    }
    assert!(received(&agent) >= "web-0\n".len() as f64, "{}", received(&agent));
    agent.stop().unwrap();
}

#[test]
fn a_service_that_is_deleted_and_made_again_after_a_change_of_layout_begins_at_0() {
    let (node, mut agent) = serving(Build::This);
    node.spread(CART, 100);
    agent.stop().unwrap();
    agent = node.agent(&build(Build::OtherLayout)).unwrap();
    assert_eq!(connections(&agent, "cart")["opened"], 100.0);
    node.remove("cart.yaml");
    node.eventually_untouched(CART);
    node.put_service("cart", CART);
    node.eventually_served(CART);
    let seen = connections(&agent, "cart");
    assert!((1.0..100.0).contains(&seen["opened"]), "{seen:?}");
}

/// A counter that falls to what the new maps have and rises again would be taken for that many connections.
#[test]
fn services_have_no_counts_while_the_maps_of_another_layout_have_them() {
    let (node, mut agent) = serving(Build::This);
    drop(open_connection(&node));
    assert_eq!(connections(&agent, "cart")["opened"], 1.0);
    agent.stop().unwrap();
    node.put_text("broken.yaml", "---\nkind: Service\nmetadata: {name: [\n");
    let mut agent = waiting(&node);
    node.assert_served(CART);
    let text = agent.metrics().unwrap();
    assert!(!text.contains("\nsockline_connections_"), "{text}");
    node.remove("broken.yaml");
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    eventually("the counts of both layouts", || {
        let seen = connections(&agent, "cart");
        holds(seen["opened"] >= 2.0, format!("{seen:?}"))
    });
}

#[test]
fn changes_without_an_agent_are_in_the_maps_of_the_other_layout() {
    let (node, mut agent) = serving(Build::This);
    agent.stop().unwrap();
    node.remove("ship.yaml");
    node.put_service("mail", "10.96.0.3");
    let _next = node.agent(&build(Build::OtherLayout)).unwrap();
    node.assert_served(CART);
    node.assert_served("10.96.0.3");
    node.assert_untouched(SHIP);
}

#[test]
fn an_agent_of_another_layout_without_a_source_leaves_the_services_as_they_are() {
    let (node, mut agent) = serving(Build::This);
    let hammer = hammer(&node);
    agent.stop().unwrap();
    let folder = node.temp().join("later");
    let waiting = AgentOptions {
        manifests: Some(folder.clone()),
        until_ready: false,
        ..build(Build::OtherLayout)
    };
    agent = node.agent(&waiting).unwrap();
    node.assert_served(CART);
    node.assert_served(SHIP);
    fs::rename(node.manifests(), &folder).unwrap();
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    assert_sound(&node, &agent, OTHER);
    hammer.assert_nothing_failed();
}

/// An agent of the other layout that waits for a source that it can read in full.
fn waiting(node: &WebNode) -> Agent {
    waiting_as(node, build(Build::OtherLayout))
}

fn waiting_as(node: &WebNode, options: AgentOptions) -> Agent {
    let options = AgentOptions { until_ready: false, ..options };
    let agent = node.agent(&options).unwrap();
    eventually("the agent to say what it waits for", || {
        let reply = agent.get("/readyz").unwrap();
        let waits = "waiting for a source that can be read in full; until then, the kernel serves";
        holds(reply.status == 503 && reply.body.starts_with(waits), reply.body)
    });
    agent
}

#[test]
fn a_service_in_a_file_that_is_broken_is_served_after_a_change_of_layout() {
    let (node, mut agent) = serving(Build::This);
    let hammer = hammer(&node);
    agent.stop().unwrap();
    node.put_text("ship.yaml", "---\nkind: Service\nmetadata: {name: [\n");
    let mut agent = waiting(&node);
    node.assert_served(CART);
    node.assert_served(SHIP);
    crate::common::eventually_logged(&agent, "waiting for a source", 1);
    let log = agent.log();
    assert_eq!(crate::common::lines_with(&log, "waiting for a source").len(), 1, "{log}");
    node.put_service("ship", SHIP);
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    eventually("the old layout to be gone", || {
        let seen = layouts(&node);
        holds(seen == set(&[OTHER]), format!("{seen:?}"))
    });
    assert_sound(&node, &agent, OTHER);
    hammer.assert_nothing_failed();
}

/// Until then its programs are not attached, so they bypass nothing, however long that takes.
#[test]
fn the_fail_open_deadline_begins_when_the_layouts_programs_are_attached() {
    let (node, mut agent) = serving(Build::OtherLayout);
    let hammer = hammer(&node);
    agent.stop().unwrap();
    node.put_text("broken.yaml", "---\nkind: Service\nmetadata: {name: [\n");
    let args = ["--fail-open-after", "1h"];
    let mut agent = waiting_as(&node, options(&args));
    let fail_open = |agent: &Agent| json_of(agent, &["status"])["failOpen"].take();
    let seen = fail_open(&agent);
    assert_eq!(seen["after"], "1h0m0s", "{seen}");
    assert!(seen["remaining"].is_null(), "{seen}");
    assert!(seen["bypassedSince"].is_null(), "{seen}");
    node.remove("broken.yaml");
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    let seen = fail_open(&agent);
    assert!(seen["remaining"].is_string(), "{seen}");
    hammer.assert_nothing_failed();
}

/// The programs of the other layout bypass all calls by then, whatever this agent does.
#[test]
fn a_broken_file_delays_a_change_of_layout_until_the_deadline() {
    let (node, mut agent) = serving(Build::OtherLayout);
    agent.stop().unwrap();
    node.put_text("ship.yaml", "---\nkind: Service\nmetadata: {name: [\n");
    let mut agent = waiting_as(&node, options(&["--fail-open-after", "20s"]));
    node.assert_served(SHIP);
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    node.assert_served(CART);
    node.assert_untouched(SHIP);
}

#[test]
fn services_deleted_from_the_source_are_gone_after_a_change_of_layout_with_a_broken_file() {
    let (node, mut agent) = serving(Build::This);
    agent.stop().unwrap();
    node.put_text("broken.yaml", "---\nkind: Service\nmetadata: {name: [\n");
    let _next = waiting(&node);
    node.remove("ship.yaml");
    node.remove("broken.yaml");
    node.eventually_untouched(SHIP);
    node.assert_served(CART);
}

#[test]
fn a_second_agent_of_another_layout_is_refused_and_the_first_keeps_working() {
    let (node, agent) = serving(Build::This);
    let hammer = hammer(&node);
    let mut second = node.spawn_agent(&build(Build::OtherLayout)).unwrap();
    let status = eventually("the second agent to end", || {
        second.try_wait().unwrap().ok_or_else(|| second.log())
    });
    assert_eq!(status.code(), Some(1), "{}", second.log());
    let who = format!("another sockline agent (process {})", agent.pid());
    assert!(second.log().contains(&who), "{}", second.log());
    node.put(
        "mail.yaml",
        &[objects::service("mail", "10.96.0.3"), objects::slice("mail", &node.web_addresses())],
    );
    node.eventually_served("10.96.0.3");
    node.remove("mail.yaml");
    node.eventually_untouched("10.96.0.3");
    assert_sound(&node, &agent, OWN);
    hammer.assert_nothing_failed();
}
