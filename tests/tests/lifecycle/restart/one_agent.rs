//! One agent at a time, whenever the last one ended.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use serde_json::json;
use sockline::dataplane::Pins;
use sockline_testbed::{AgentOptions, objects};

use super::SHIP;
use crate::common::{CART, WebNode, eventually, holds, options};

#[test]
fn an_agent_waits_for_the_lock_that_a_status_command_holds() {
    let (node, mut agent) = WebNode::serving(1, &[]);
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
    let (node, agent) = WebNode::serving(1, &[]);
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
    const SERVICES: u32 = 20;
    const ENDPOINTS: u32 = 1200;
    let (node, mut agent) = WebNode::serving(1, &[]);
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
        // About thirty in total: each start parses all endpoints, which takes seconds in a debug build.
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
    let results = report["results"].as_array().unwrap();
    let drift = results.iter().find(|result| result["check"] == "maps.drift").unwrap();
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
