//! The kernel state outlives the agent, and the next agent takes it over.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::common::{WebNode, eventually, hammer::Hammer, holds, ip, options, series, translated};
use serde_json::json;
use sockline::dataplane::Pins;
use sockline_testbed::{Agent, AgentOptions, bpf::RawMap, objects, patience};

const CART: &str = "10.96.0.1";
const SHIP: &str = "10.96.0.2";

fn cart_at_80() -> SocketAddr {
    SocketAddr::new(ip(CART), 80)
}

/// A node with the service `cart` and a ready agent.
fn serving(webs: usize) -> (WebNode, Agent) {
    let node = WebNode::new(webs);
    node.put_service("cart", CART);
    let agent = node.start_agent();
    (node, agent)
}

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
        stream.set_read_timeout(Some(patience(Duration::from_secs(5)))).unwrap();
        stream.read_exact(&mut [0; "web-0\n".len()]).unwrap();
        stream
    })
}

#[test]
fn old_and_new_connections_work_after_sigterm() {
    let (node, mut agent) = serving(1);
    let mut open = open_connection(&node);
    let status = agent.stop().unwrap();
    assert!(status.success(), "SIGTERM ended the agent with {status}: {}", agent.log());
    assert_eq!(echo(&mut open, "still here"), "still here");
    assert_eq!(open.peer_addr().unwrap(), cart_at_80(), "the peer is still the service");
    node.assert_served(CART);
}

#[test]
fn old_and_new_connections_work_after_sigkill() {
    let (node, mut agent) = serving(1);
    let mut open = open_connection(&node);
    agent.kill().unwrap();
    assert_eq!(echo(&mut open, "still here"), "still here");
    node.assert_served(CART);
}

#[test]
fn the_listing_commands_read_the_node_while_the_agent_is_down() {
    let (node, mut agent) = serving(2);
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
    let (node, mut agent) = serving(4);
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
    let (node, mut agent) = serving(1);
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
    let (node, mut agent) = serving(2);
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

#[test]
fn the_next_agent_applies_what_changed_without_an_agent() {
    let (node, mut agent) = serving(1);
    agent.stop().unwrap();
    node.remove("cart.yaml");
    node.put_service("ship", SHIP);
    node.assert_served(CART);
    let _next = node.start_agent();
    node.assert_served(SHIP);
    node.assert_untouched(CART);
}

#[test]
fn an_agent_without_its_manifests_folder_keeps_serving_what_it_found() {
    let (node, mut agent) = serving(1);
    agent.stop().unwrap();
    let folder = node.temp().join("later");
    let mut waiting = options(&[]);
    waiting.manifests = Some(folder.clone());
    waiting.until_ready = false;
    let next = node.agent(&waiting).unwrap();
    node.eventually_problems(&[&format!(
        "folder {}: cannot be read (No such file or directory (os error 2)); waiting for it",
        folder.display()
    )]);
    node.assert_served(CART);
    assert_eq!(next.get("/readyz").unwrap().status, 503);
    fs::rename(node.manifests(), &folder).unwrap();
    eventually("the agent to be ready", || {
        let reply = next.get("/readyz").unwrap();
        holds(reply.status == 200, reply.body)
    });
    node.assert_served(CART);
}

#[test]
fn services_whose_names_are_lost_are_served_until_the_source_identifies_them() {
    let (node, mut agent) = serving(1);
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    agent.stop().unwrap();
    let names = RawMap::pinned(&Pins::in_bpffs(node.bpffs()).map("SERVICE_NAMES")).unwrap();
    for key in names.keys().unwrap() {
        names.remove(&key).unwrap();
    }
    let folder = node.temp().join("later");
    let mut waiting = options(&[]);
    waiting.manifests = Some(folder.clone());
    waiting.until_ready = false;
    agent = node.agent(&waiting).unwrap();
    node.assert_served(CART);
    node.assert_served(SHIP);
    node.remove("ship.yaml");
    fs::rename(node.manifests(), &folder).unwrap();
    agent.wait_until_ready(crate::common::DEADLINE).unwrap();
    node.assert_served(CART);
    node.assert_untouched(SHIP);
    assert_eq!(node.services(), ["shop/cart"]);
}

#[test]
fn two_services_with_one_name_are_served_until_the_source_identifies_them() {
    let (node, mut agent) = serving(1);
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
    agent.kill().unwrap();
    let names = RawMap::pinned(&Pins::in_bpffs(node.bpffs()).map("SERVICE_NAMES")).unwrap();
    let keys = names.keys().unwrap();
    let one = names.get(&keys[0]).unwrap().unwrap();
    for key in &keys {
        names.set(key, &one).unwrap();
    }
    let hammer = Hammer::start(&node.client, vec![cart_at_80(), (ip(SHIP), 80).into()]);
    agent = node.start_agent();
    hammer.wait_for(20);
    hammer.assert_nothing_failed();
    agent.stop().unwrap();
    assert_eq!(node.services(), ["shop/cart", "shop/ship"]);
}

/// A file that parses up to its last document.
fn broken(objects: &[serde_json::Value]) -> String {
    objects::file::yaml(objects) + "---\nkind: Service\nmetadata: {name: [\n"
}

#[test]
fn a_service_in_a_file_that_is_broken_at_the_start_stays_served() {
    let (node, mut agent) = serving(1);
    agent.stop().unwrap();
    node.put_text("cart.yaml", &broken(&[]));
    node.put_service("ship", SHIP);
    let _next = node.start_agent();
    node.assert_served(SHIP);
    node.assert_served(CART);
}

#[test]
fn a_service_whose_endpoints_are_in_a_broken_file_is_not_refused() {
    let node = WebNode::new(1);
    node.put("cart.yaml", &[objects::service("cart", CART)]);
    node.put("slices.yaml", &[objects::slice("cart", &node.web_addresses())]);
    let mut agent = node.start_agent();
    agent.stop().unwrap();
    node.put_text("slices.yaml", &broken(&[]));
    let _next = node.start_agent();
    node.assert_served(CART);
}

#[test]
fn retained_services_are_removed_when_the_repaired_file_does_not_have_them() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    node.put_service("ship", SHIP);
    let mut agent = node.start_agent();
    agent.stop().unwrap();
    node.put_text("cart.yaml", &broken(&[]));
    node.put("ship.yaml", &[objects::service("ship", SHIP)]);
    let _next = node.start_agent();
    node.assert_served(CART);
    node.assert_served(SHIP);
    node.put("cart.yaml", &[]);
    node.eventually_untouched(CART);
    node.eventually_refused(SHIP);
}

/// Only these names are retained: services that are gone from another file are removed.
#[test]
fn an_unusable_service_stays_served_over_a_restart() {
    let mut service = objects::service("cart", CART);
    service["spec"]["ports"] = json!([{"name": "web", "port": 0}]);
    let mut wrong_type = objects::service("cart", CART);
    wrong_type["spec"]["ports"] = json!("web");
    for bad in [service, wrong_type] {
        let node = WebNode::new(1);
        node.put_service("cart", CART);
        node.put_service("ship", SHIP);
        let mut agent = node.start_agent();
        node.put("cart.yaml", &[bad, objects::slice("cart", &node.web_addresses())]);
        agent.stop().unwrap();
        node.remove("ship.yaml");
        let _next = node.start_agent();
        node.eventually_untouched(SHIP);
        node.assert_served(CART);
        node.remove("cart.yaml");
        node.eventually_untouched(CART);
    }
}

#[test]
fn a_service_with_an_unusable_slice_is_not_refused_after_a_restart() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let mut agent = node.start_agent();
    let mut bad = objects::slice("cart", &node.web_addresses());
    bad["addressType"] = json!("IPv5");
    let cart = objects::service("cart", CART);
    node.put("cart.yaml", &[cart.clone(), bad]);
    agent.stop().unwrap();
    let _next = node.start_agent();
    node.assert_served(CART);
    // The log has a new line, without it.
    node.put("cart.yaml", &[cart]);
    node.eventually_refused(CART);
}

#[test]
fn a_broken_file_does_not_retain_services_whose_deletion_this_agent_saw() {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    node.put_service("ship", SHIP);
    let mut agent = node.start_agent();
    agent.stop().unwrap();
    let _next = node.start_agent();
    node.put_text("broken.yaml", &broken(&[]));
    node.remove("cart.yaml");
    node.eventually_untouched(CART);
    node.put("ship.yaml", &[objects::service("ship", SHIP)]);
    node.eventually_refused(SHIP);
}

#[test]
fn a_manifest_of_another_kind_retains_nothing() {
    let (node, mut agent) = serving(1);
    agent.stop().unwrap();
    node.remove("cart.yaml");
    node.put("other.yaml", &[json!({"apiVersion": "apps/v1", "kind": "Deployment"})]);
    let _next = node.start_agent();
    node.assert_untouched(CART);
}

#[test]
fn an_agent_waits_for_the_lock_that_a_status_command_holds() {
    let (node, mut agent) = serving(1);
    agent.stop().unwrap();
    let lock = fs::File::open(node.bpffs().join("sockline")).unwrap();
    lock.lock().unwrap();
    let held = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        drop(lock);
    });
    let _next = node.start_agent();
    held.join().unwrap();
}

#[test]
fn a_second_agent_is_refused_and_the_first_keeps_working() {
    let (node, agent) = serving(1);
    let bpffs = node.bpffs();
    let output = node.sockline(&[
        "agent",
        "--manifests",
        node.manifests().to_str().unwrap(),
        "--bpf-root",
        bpffs.to_str().unwrap(),
        "--cgroup-root",
        node.cgroup().to_str().unwrap(),
        "--admin-socket",
        agent.admin_socket().to_str().unwrap(),
        "--metrics-bind-address",
        "127.0.0.1:0",
        "--node-name",
        "node-a",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = crate::common::error_of(&output);
    let errors = crate::common::lines_with(&said, "error");
    let expected = format!(
        "error: another sockline agent (process {}) already manages {}; stop it first, or give \
         this one its own --bpf-root",
        agent.pid(),
        bpffs.join("sockline").display()
    );
    assert_eq!(errors, [expected], "{said}");
    assert_eq!(agent.get("/healthz").unwrap().status, 200);
    assert_eq!(node.status()["agent"]["pid"], json!(agent.pid()));
    node.put_service("ship", SHIP);
    node.eventually_served(SHIP);
}

#[test]
fn an_agent_that_is_killed_while_maps_grow_leaves_a_consistent_state() {
    const SERVICES: u32 = 40;
    const ENDPOINTS: u32 = 1200;
    let (node, mut agent) = serving(1);
    let service = |number: u32| format!("10.96.1.{number}");
    let manifest: String = (0..SERVICES)
        .map(|number| {
            let name = format!("s{number}");
            let mut addresses = node.web_addresses();
            let address = |n: u32| Ipv4Addr::from_bits(0x0a00_0000 + (number << 16) + n);
            addresses.extend((1..ENDPOINTS).map(|n| IpAddr::from(address(n))));
            let service = objects::web_service(&name, &service(number));
            let objects = [vec![service], objects::slices(&name, &addresses)].concat();
            objects::file::yaml(&objects) + "---\n"
        })
        .collect();
    node.put_text("many.yaml", &manifest);
    let starting = AgentOptions { until_ready: false, ..options(&[]) };
    let inner = Pins::in_bpffs(node.bpffs()).inner_maps();
    let segments = || fs::read_dir(&inner).unwrap().count();
    let mut killed_at = segments();
    for _ in 0..6 {
        // About sixty in total.
        let wanted = killed_at + fastrand::usize(1..9);
        eventually("more segments", || {
            let log = agent.log();
            holds(segments() >= wanted || log.contains("the first full sync is"), log)
        });
        agent.kill().unwrap();
        killed_at = segments();
        node.assert_served(CART);
        agent = node.agent(&starting).unwrap();
    }
    agent.kill().unwrap();
    let _agent = node.start_agent();
    for number in 0..SERVICES {
        assert_eq!(node.backends(&format!("s{number}"), "web").len(), ENDPOINTS as usize);
    }
    let cgroup = node.cgroup().to_str().unwrap();
    let report = node.json(&["check", "--cgroup-root", cgroup]);
    let findings = report["results"].as_array().unwrap();
    let drift = findings.iter().find(|finding| finding["check"] == "maps.drift").unwrap();
    assert_eq!(drift["state"], "ok", "{drift}");
}

#[test]
fn a_restart_takes_no_more_memory_for_existing_state() {
    let node = WebNode::new(1);
    // More slots than one segment has.
    let addresses: Vec<IpAddr> = (0..9000_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            IpAddr::from([10, 9, high, low])
        })
        .collect();
    for (name, cluster_ip, part) in
        [("a", "10.96.1.1", &addresses[..4500]), ("b", "10.96.1.2", &addresses[4500..])]
    {
        let service = objects::service(name, cluster_ip);
        let objects = [vec![service], objects::slices(name, part)].concat();
        node.put(&format!("{name}.yaml"), &objects);
    }
    let capacities = || {
        let status = node.status();
        let maps = status["agent"]["maps"].as_array().unwrap().clone();
        maps.iter().map(|map| map["allocatedEntries"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let mut agent = node.start_agent();
    let before = capacities();
    agent.kill().unwrap();
    let _next = node.start_agent();
    assert_eq!(capacities(), before);
}
