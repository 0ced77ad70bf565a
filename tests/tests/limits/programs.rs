//! Maps that the programs write: the agent can only report that they are full, and remove expired entries.

use std::fs;

use aya::{
    maps::{HashMap, Map, MapData, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use serde_json::{Value, json};
use sockline_ebpf::{
    counters::{COUNTED_SERVICES, ServiceCounters},
    exclusion::{ANY_LEVEL, CGROUPS},
    id::{BackendId, ServiceId},
    socket::{Affinity, AffinityKey, Choice},
};
use sockline_testbed::{Agent, objects};

use super::{
    address,
    common::{self, WebNode, damage::Damage, eventually, holds, series},
    map,
};

/// A service with session affinity of this timeout.
fn put_sticky(node: &WebNode, seconds: u32) {
    let mut service = objects::web_service("sticky", &address(0));
    service["spec"]["sessionAffinity"] = json!("ClientIP");
    service["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    node.put("sticky.yaml", &[service, objects::slice("sticky", &node.web_addresses())]);
}

fn affinity(node: &WebNode) -> HashMap<MapData, AffinityKey, Affinity> {
    let pin = Damage::of(node).pins().map("AFFINITY");
    Map::LruHashMap(MapData::from_pin(pin).unwrap()).try_into().unwrap()
}

/// Writes affinities as the programs do, for this many clients of the only service.
fn add_affinities(node: &WebNode, count: u64) {
    let service = Damage::of(node).frontend(80).service;
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let now: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let choice = Choice::new(BackendId(1), 1, (now * 1e9) as u64);
    let mut map = affinity(node);
    for netns in 0..count {
        let key = AffinityKey { netns: 1 << 40 | netns, service, family: 4 };
        map.insert(key, Affinity { key, choice }, 0).unwrap();
    }
}

/// The full maps in the status.
fn full(node: &WebNode) -> Vec<String> {
    common::messages(&node.status()["agent"]["fullMaps"])
}

#[track_caller]
fn eventually_full(node: &WebNode, agent: &Agent, text: &str) {
    eventually(&format!("the status to say: {text}"), || {
        let full = full(node);
        holds(full.iter().any(|line| line.contains(text)), format!("{full:?}: {}", agent.log()))
    });
    common::eventually_logged(agent, text, 1);
    let log = agent.log();
    assert_eq!(common::lines_with(&log, text).len(), 1, "not reported once: {log}");
}

#[test]
fn a_full_affinity_map_is_reported() {
    let node = WebNode::new(1);
    put_sticky(&node, 10_800);
    let agent = node.start_agent_with(&["--max-affinity", "1024", "--reconcile-interval", "1s"]);
    add_affinities(&node, 1500);
    eventually_full(&node, &agent, "map `AFFINITY` is full (--max-affinity 1024)");
    eventually("the entries to be counted", || {
        let entries = map(&agent, "entries", "affinity");
        holds(entries > 700.0, entries)
    });
    assert_eq!(map(&agent, "max_entries", "affinity"), 1024.0);
    node.assert_served(&address(0));
    // Without its service an affinity means nothing.
    node.remove("sticky.yaml");
    eventually("the map to be empty", || {
        let entries = map(&agent, "entries", "affinity");
        holds(entries == 0.0 && full(&node).is_empty(), format!("{entries}, {:?}", full(&node)))
    });
}

#[test]
fn expired_session_affinities_do_not_count_as_used() {
    let node = WebNode::new(1);
    put_sticky(&node, 1);
    let agent = node.start_agent_with(&["--max-affinity", "1024", "--reconcile-interval", "1s"]);
    add_affinities(&node, 300);
    eventually("the entries to be removed", || {
        let left = affinity(&node).keys().count();
        holds(left == 0, left)
    });
    assert_eq!(full(&node), [""; 0], "{}", agent.log());
}

#[test]
fn another_size_of_the_affinity_map_keeps_all_affinities() {
    let node = WebNode::new(4);
    put_sticky(&node, 10_800);
    // The handle of an older agent leaves the cleanup to the newest one.
    let mut agents = vec![node.start_agent()];
    let kept: Vec<String> = node.spread(&address(0), 5).into_keys().collect();
    for size in ["2048", "1024"] {
        agents.last_mut().unwrap().stop().unwrap();
        let next = node.start_agent_with(&["--max-affinity", size]);
        let seen: Vec<String> = node.spread(&address(0), 5).into_keys().collect();
        assert_eq!(seen, kept, "after --max-affinity {size}");
        eventually("the map to be counted", || {
            let metrics = next.metrics().unwrap();
            let capacity = series(&metrics, "sockline_bpf_map_allocated_entries{map=\"affinity\"}");
            holds(capacity == Some(size.parse().unwrap()), format!("{capacity:?}"))
        });
        agents.push(next);
    }
}

/// The names in a list of the status, which is absent if it is empty.
fn names(status: &Value, list: &str) -> Vec<String> {
    let maps = status[list].as_array().into_iter().flatten();
    maps.map(|map| map["name"].as_str().unwrap().to_owned()).collect()
}

/// Another map is in the place of its pin, until the agent repairs that.
#[test]
fn a_map_that_cannot_be_read_is_named_and_hides_no_other() {
    let node = WebNode::new(1);
    node.put_service("served", &address(1));
    let agent = node.start_agent_with(&["--reconcile-interval", "1s"]);
    let damage = Damage::of(&node);
    let own = damage.map_id("CLIENTS");
    eventually("a scan that finds the other map", || {
        // A scan and a repair are due at the same time.
        if damage.map_id("CLIENTS") == own {
            damage.pin_a_map_at(&damage.pins().map("CLIENTS"));
        }
        let status = node.status()["agent"].clone();
        let (counted, unreadable) = (names(&status, "maps"), names(&status, "unreadableMaps"));
        let is_counted = |name: &&str| counted.iter().any(|counted| counted == name);
        let others = ["affinity", "service-counters", "overflow", "frontends"];
        let stands_alone = unreadable == ["clients"] && !is_counted(&"clients");
        holds(stands_alone && others.iter().all(is_counted), format!("{counted:?} {unreadable:?}"))
    });
    common::eventually_logged(&agent, "cannot read map clients: ", 1);
    eventually("all maps to be counted", || {
        let status = node.status()["agent"].clone();
        let is_counted = names(&status, "maps").contains(&"clients".to_owned());
        holds(is_counted && names(&status, "unreadableMaps").is_empty(), status)
    });
    common::eventually_logged(&agent, "resolved: map clients is read again", 1);
}

#[test]
fn services_without_room_for_their_counters_are_reported() {
    let node = WebNode::new(1);
    node.put_service("served", &address(1));
    let agent = node.start_agent_with(&["--reconcile-interval", "1s"]);
    let pin = Damage::of(&node).pins().map("SERVICE_COUNTERS");
    let map = Map::PerCpuHashMap(MapData::from_pin(pin).unwrap());
    let mut counters: PerCpuHashMap<MapData, ServiceId, ServiceCounters> = map.try_into().unwrap();
    let none = || {
        let cpus = nr_cpus().unwrap();
        PerCpuValues::try_from(vec![ServiceCounters::default(); cpus]).unwrap()
    };
    // Counters of services that do not exist.
    let foreign = |number: u32| ServiceId((1 << 20) + number);
    for number in 0..COUNTED_SERVICES {
        // The kernel allocates memory for per-CPU values more slowly than this test can use it.
        eventually("an entry to be written", || counters.insert(foreign(number), none(), 0));
    }
    node.put("empty.yaml", &[objects::web_service("empty", &address(0))]);
    node.eventually_refused(&address(0));
    eventually_full(&node, &agent, "is not counted: shop/empty:web/TCP");
    let faults =
        series(&agent.metrics().unwrap(), "sockline_kernel_faults_total{fault=\"counters-full\"}");
    assert!(faults >= Some(1.0), "{faults:?}");
    for number in 0..COUNTED_SERVICES {
        counters.remove(&foreign(number)).unwrap();
    }
    eventually("the room to be seen", || {
        let full = full(&node);
        holds(full.is_empty(), format!("{full:?}"))
    });
}

#[test]
fn pods_that_do_not_fit_are_reported_and_excluded_later() {
    const UID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";
    let node = WebNode::new(1);
    node.put_service("web", &address(0));
    let agent = node.start_agent_with(&["--reconcile-interval", "86400s"]);
    let pin = Damage::of(&node).pins().map("EXCLUDED");
    let map = Map::HashMap(MapData::from_pin(pin).unwrap());
    let mut cgroups: HashMap<MapData, u64, u32> = map.try_into().unwrap();
    let foreign = |number: u32| 1 << 40 | u64::from(number);
    for number in 0..CGROUPS {
        cgroups.insert(foreign(number), ANY_LEVEL, 0).unwrap();
    }
    let cgroup = node.pod_cgroup(UID).unwrap();
    let container = cgroup.container(&node.client, "meshed").unwrap();
    let pod = objects::Pod::new("shop/meshed").uid(UID).label("sockline.dev/redirect", "disabled");
    node.put("pod.yaml", &[pod.object()]);
    let text = "these excluded pods are translated: shop/meshed";
    eventually("the pod to be reported", || holds(agent.log().contains(text), agent.log()));
    eventually("the status to say so", || {
        let table = String::from_utf8(node.look(&["status"]).stdout).unwrap();
        holds(table.contains("NO ROOM for it: its connections are translated"), table)
    });
    let metrics = agent.metrics().unwrap();
    assert_eq!(series(&metrics, "sockline_excluded_pods_unresolved"), Some(1.0), "{metrics}");
    for number in 0..CGROUPS {
        cgroups.remove(&foreign(number)).unwrap();
    }
    eventually("the pod to be excluded", || common::untouched(&container, &address(0)));
    let log = agent.log();
    assert_eq!(common::lines_with(&log, text).len(), 1, "{log}");
}
