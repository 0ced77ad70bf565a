//! Upgrades and roll-backs between builds, of one layout of the maps and of two.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::common::{Stage, eventually, hammer::Hammer, holds, ip, options};
use serde_json::Value;
use sockline_testbed::{Agent, AgentOptions, Build, objects};

const CART: &str = "10.96.0.1";
const SHIP: &str = "10.96.0.2";

fn at_80(service: &str) -> SocketAddr {
    SocketAddr::new(ip(service), 80)
}

fn build(build: Build) -> AgentOptions {
    AgentOptions { binary: Some(build.binary().unwrap()), ..options(&[]) }
}

/// A stage with two services and a ready agent of a build.
fn serving(first: Build) -> (Stage, Agent) {
    let stage = Stage::new(3);
    stage.put_service("cart", CART);
    stage.put_service("ship", SHIP);
    let agent = stage.node.agent(&build(first)).unwrap();
    (stage, agent)
}

fn hammer(stage: &Stage) -> Hammer {
    Hammer::start(&stage.client, vec![at_80(CART), at_80(SHIP)])
}

/// The folders of layouts below the pins.
fn layouts(stage: &Stage) -> BTreeSet<String> {
    let folder = stage.node.bpffs().join("sockline");
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('v')).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// A connection that is open and was greeted.
fn open_connection(stage: &Stage) -> TcpStream {
    stage.client.run(|| {
        let mut stream = TcpStream::connect(at_80(CART)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
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
fn told(agent: &Agent, args: &[&str]) -> Value {
    let text = agent.cli(&[args, &["-o", "json"]].concat()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Everything that a node with this ready agent must be.
#[track_caller]
fn assert_sound(stage: &Stage, agent: &Agent, layout: &str) {
    assert_eq!(layouts(stage), set(&[layout]));
    let listing = told(agent, &["services"]);
    let frontends = listing["frontends"].as_array().unwrap();
    let names: BTreeSet<&str> =
        frontends.iter().map(|frontend| frontend["service"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["shop/cart", "shop/ship"]));
    for service in [CART, SHIP] {
        assert_eq!(stage.spread(service, 40).len(), 3, "not all pods of {service} get connects");
    }
    let cgroup = stage.node.cgroup().to_str().unwrap();
    agent.cli(&["check", "--cgroup-root", cgroup]).unwrap();
}

const OWN: &str = "v3";
const OTHER: &str = "v1003";

#[test]
fn no_connect_fails_on_the_way_to_another_layout_and_back() {
    let (stage, mut agent) = serving(Build::This);
    let mut open = open_connection(&stage);
    let hammer = hammer(&stage);
    for (next, layout) in
        [(Build::OtherLayout, OTHER), (Build::This, OWN), (Build::OtherLayout, OTHER)]
    {
        agent.stop().unwrap();
        hammer.wait_for(50);
        agent = stage.node.agent(&build(next)).unwrap();
        hammer.wait_for(50);
        assert_sound(&stage, &agent, layout);
        assert_echo(&mut open);
    }
    hammer.assert_nothing_failed();
}

#[test]
fn no_connect_fails_on_the_way_to_another_build_and_back() {
    let (stage, mut agent) = serving(Build::This);
    let talkers = stage.udp_talkers(CART, 8);
    let hammer = hammer(&stage);
    for next in [Build::OtherPrograms, Build::This] {
        agent.stop().unwrap();
        agent = stage.node.agent(&build(next)).unwrap();
        hammer.wait_for(50);
        assert_sound(&stage, &agent, OWN);
    }
    hammer.assert_nothing_failed();
    for (socket, before) in &talkers {
        assert_eq!(stage.ask_udp(socket, CART), *before, "another backend after the upgrade");
    }
}

#[test]
fn no_connect_fails_when_agents_of_both_layouts_are_killed_on_their_way() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (stage, mut agent) = serving(Build::This);
    let mut open = open_connection(&stage);
    let hammer = hammer(&stage);
    for _ in 0..12 {
        agent.kill().unwrap();
        let next = if random.bool() { Build::OtherLayout } else { Build::This };
        let starting = AgentOptions { until_ready: false, ..build(next) };
        agent = stage.node.spawn_agent(&starting).unwrap();
        thread::sleep(Duration::from_millis(random.u64(0..400)));
    }
    agent.kill().unwrap();
    for (last, layout) in [(Build::OtherLayout, OTHER), (Build::This, OWN)] {
        agent = stage.node.agent(&build(last)).unwrap();
        assert_sound(&stage, &agent, layout);
        agent.stop().unwrap();
    }
    assert_echo(&mut open);
    hammer.assert_nothing_failed();
}

#[test]
fn what_changed_while_no_agent_ran_is_in_the_maps_of_the_other_layout() {
    let (stage, mut agent) = serving(Build::This);
    agent.stop().unwrap();
    stage.remove("ship.yaml");
    stage.put_service("mail", "10.96.0.3");
    let _next = stage.node.agent(&build(Build::OtherLayout)).unwrap();
    stage.assert_served(CART);
    stage.assert_served("10.96.0.3");
    stage.assert_untouched(SHIP);
}

#[test]
fn an_agent_of_another_layout_without_a_source_leaves_the_services_as_they_are() {
    let (stage, mut agent) = serving(Build::This);
    let hammer = hammer(&stage);
    agent.stop().unwrap();
    let folder = stage.node.temp().join("later");
    let waiting = AgentOptions {
        manifests: Some(folder.clone()),
        until_ready: false,
        ..build(Build::OtherLayout)
    };
    agent = stage.node.agent(&waiting).unwrap();
    stage.assert_served(CART);
    stage.assert_served(SHIP);
    fs::rename(stage.node.manifests(), &folder).unwrap();
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    assert_sound(&stage, &agent, OTHER);
    hammer.assert_nothing_failed();
}

/// An agent of the other layout that waits for a source that it can read in full.
fn waiting(stage: &Stage) -> Agent {
    waiting_as(stage, build(Build::OtherLayout))
}

fn waiting_as(stage: &Stage, options: AgentOptions) -> Agent {
    let options = AgentOptions { until_ready: false, ..options };
    let agent = stage.node.agent(&options).unwrap();
    eventually("the agent to say what it waits for", || {
        let reply = agent.get("/readyz").unwrap();
        let waits = "waiting for a source that can be read in full; until then, the kernel serves";
        holds(reply.status == 503 && reply.body.starts_with(waits), reply.body)
    });
    agent
}

#[test]
fn a_service_in_a_file_that_is_broken_is_served_after_a_change_of_layout() {
    let (stage, mut agent) = serving(Build::This);
    let hammer = hammer(&stage);
    agent.stop().unwrap();
    stage.put_text("ship.yaml", "---\nkind: Service\nmetadata: {name: [\n");
    let mut agent = waiting(&stage);
    stage.assert_served(CART);
    stage.assert_served(SHIP);
    let log = agent.log();
    assert_eq!(crate::common::lines_with(&log, "waiting for a source").len(), 1, "{log}");
    stage.put_service("ship", SHIP);
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    eventually("the old layout to be gone", || {
        let seen = layouts(&stage);
        holds(seen == set(&[OTHER]), format!("{seen:?}"))
    });
    assert_sound(&stage, &agent, OTHER);
    hammer.assert_nothing_failed();
}

/// Until then its programs are not attached, so they bypass nothing, however long that takes.
#[test]
fn the_time_until_calls_are_bypassed_begins_when_the_layouts_programs_are_attached() {
    let (stage, mut agent) = serving(Build::OtherLayout);
    let hammer = hammer(&stage);
    agent.stop().unwrap();
    stage.put_text("broken.yaml", "---\nkind: Service\nmetadata: {name: [\n");
    let args = ["--fail-open-after", "10s"];
    let mut agent = waiting_as(&stage, options(&args));
    let fail_open = |agent: &Agent| told(agent, &["status"])["fail_open"].take();
    let seen = fail_open(&agent);
    assert_eq!(seen["after_seconds"], 10.0, "{seen}");
    assert!(seen["seconds_left"].is_null(), "{seen}");
    assert!(seen["bypassed_since"].is_null(), "{seen}");
    stage.remove("broken.yaml");
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    let seen = fail_open(&agent);
    assert!(seen["seconds_left"].is_number(), "{seen}");
    hammer.assert_nothing_failed();
}

/// The programs of the other layout bypass all calls by then, whatever this agent does.
#[test]
fn a_broken_file_keeps_a_change_of_layout_back_until_the_deadline_only() {
    let (stage, mut agent) = serving(Build::OtherLayout);
    agent.stop().unwrap();
    stage.put_text("ship.yaml", "---\nkind: Service\nmetadata: {name: [\n");
    let mut agent = waiting_as(&stage, options(&["--fail-open-after", "10s"]));
    stage.assert_served(SHIP);
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    stage.assert_served(CART);
    stage.assert_untouched(SHIP);
}

#[test]
fn what_is_gone_from_the_source_is_gone_after_a_change_of_layout_with_a_broken_file() {
    let (stage, mut agent) = serving(Build::This);
    agent.stop().unwrap();
    stage.put_text("broken.yaml", "---\nkind: Service\nmetadata: {name: [\n");
    let _next = waiting(&stage);
    stage.remove("ship.yaml");
    stage.remove("broken.yaml");
    stage.eventually_untouched(SHIP);
    stage.assert_served(CART);
}

#[test]
fn a_second_agent_of_another_layout_is_turned_away_and_the_first_is_unharmed() {
    let (stage, agent) = serving(Build::This);
    let hammer = hammer(&stage);
    let mut second = stage.node.spawn_agent(&build(Build::OtherLayout)).unwrap();
    let status = eventually("the second agent to end", || {
        second.try_wait().unwrap().ok_or_else(|| second.log())
    });
    assert_eq!(status.code(), Some(1), "{}", second.log());
    let who = format!("another sockline agent (process {})", agent.pid());
    assert!(second.log().contains(&who), "{}", second.log());
    stage.put(
        "mail.yaml",
        &[objects::service("mail", "10.96.0.3"), objects::slice("mail", &stage.addresses())],
    );
    stage.eventually_served("10.96.0.3");
    stage.remove("mail.yaml");
    stage.eventually_untouched("10.96.0.3");
    assert_sound(&stage, &agent, OWN);
    hammer.assert_nothing_failed();
}
