//! Pods stay excluded over restarts of the agent, errors, and changes of the maps and cgroups; nobody else does.

use std::fs;

use aya::maps::{Array, HashMap, Map, MapData};
use sockline::{cgroups::Watcher, dataplane::Pins};
use sockline_ebpf::exclusion::{ANY_LEVEL, CGROUPS};
use sockline_testbed::Node;

use super::{
    OTHER_UID, REDIRECT, UID, assert_served, assert_untouched, eventually_excluded, excluded, node,
    plain, served, untouched,
};
use crate::common::{DEADLINE, REPAIRS, WebNode, assert_logged_once, eventually, holds, series};

#[test]
fn pods_stay_excluded_without_an_agent_and_the_next_agent_applies_what_changed() {
    let node = node();
    node.put("pod.yaml", &[excluded()]);
    let cgroup = node.pod_cgroup(UID).unwrap();
    let container = cgroup.container(&node.client, "a").unwrap();
    let mut agent = node.start_agent();
    assert_untouched(&container);
    agent.kill().unwrap();
    assert_untouched(&container);
    // Without an agent, one pod is removed and another is created.
    node.put("pod.yaml", &[plain().label(REDIRECT, "disabled").object()]);
    let other = node.pod_cgroup(OTHER_UID).unwrap().container(&node.client, "b").unwrap();
    let _agent = node.start_agent();
    assert_served(&container);
    assert_untouched(&other);
}

#[test]
fn a_pod_is_found_in_a_folder_that_was_removed_and_created_again() {
    let node = Node::new().unwrap();
    let mut watcher = Watcher::new(node.cgroup());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let hear = |watcher: &mut Watcher| {
        runtime.block_on(async { tokio::time::timeout(DEADLINE, watcher.created()).await.is_ok() })
    };
    let first = node.pod_cgroup(UID).unwrap();
    assert_eq!(watcher.read().unwrap().pods.len(), 1);
    // The last pod of its class is removed, and the folders of the class with it.
    first.remove().unwrap();
    let class = node.cgroup().join("kubepods.slice/kubepods-burstable.slice");
    fs::remove_dir(&class).unwrap();
    fs::remove_dir(class.parent().unwrap()).unwrap();
    node.pod_cgroup(OTHER_UID).unwrap().remove().unwrap();
    assert!(hear(&mut watcher), "the folders");
    assert_eq!(watcher.read().unwrap().pods.len(), 0);
    let _second = node.pod_cgroup(UID).unwrap();
    assert!(hear(&mut watcher), "the pod");
    assert_eq!(watcher.read().unwrap().pods.len(), 1);
}

#[test]
fn an_exclusion_that_failed_is_retried() {
    let node = node();
    let container = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let agent = node.start_agent();
    let mut map = excluded_cgroups(&node);
    for id in 0..u64::from(CGROUPS) {
        map.insert(u64::MAX - id, 0, 0).unwrap();
    }
    node.put("pod.yaml", &[excluded()]);
    eventually("the failure", || {
        let log = agent.log();
        holds(log.contains("these excluded pods are translated: shop/meshed"), &log)
    });
    assert_served(&container);
    for id in 0..u64::from(CGROUPS) {
        map.remove(&(u64::MAX - id)).unwrap();
    }
    eventually("it to be excluded", || untouched(&container));
}

#[test]
fn pods_stay_excluded_until_the_source_can_be_read_in_full() {
    let node = node();
    node.put("pod.yaml", &[excluded()]);
    let container = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let mut agent = node.start_agent();
    agent.kill().unwrap();
    node.put_text("pod.yaml", "kind: [");
    let _agent = node.start_agent();
    assert_untouched(&container);
    node.remove("pod.yaml");
    eventually("it to be served", || served(&container));
}

#[test]
fn levels_that_were_lost_while_the_agent_was_down_are_restored_at_the_start() {
    let node = node();
    node.put("pod.yaml", &[excluded()]);
    let container = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let mut agent = node.start_agent();
    let before = levels(&node);
    for damage in [0, ANY_LEVEL] {
        agent.kill().unwrap();
        open::<Array<MapData, u32>>(&node, "EXCLUDED_LEVELS").set(0, damage, 0).unwrap();
        agent = node.start_agent();
        assert_untouched(&container);
        assert_eq!(levels(&node), before);
    }
}

#[test]
fn a_pod_whose_cgroup_is_recreated_is_excluded_again() {
    let node = node();
    node.put("pod.yaml", &[excluded()]);
    let _agent = node.start_agent();
    for _ in 0..3 {
        let cgroup = node.pod_cgroup(UID).unwrap();
        eventually_excluded(&node, 1);
        let container = cgroup.container(&node.client, "a").unwrap();
        eventually("it to be excluded", || untouched(&container));
        drop(container);
        cgroup.remove().unwrap();
    }
    let _cgroup = node.pod_cgroup(UID).unwrap();
    eventually("only the last cgroup to be known", || {
        let known = excluded_cgroups(&node).keys().count();
        holds(known == 1, known)
    });
}

#[test]
fn entries_of_ended_pods_make_room_for_new_pods() {
    let node = node();
    let container = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let mut agent = node.start_agent();
    agent.kill().unwrap();
    let mut map = excluded_cgroups(&node);
    for id in 0..u64::from(CGROUPS) {
        map.insert(u64::MAX - id, 0, 0).unwrap();
    }
    node.put("pod.yaml", &[excluded()]);
    let _agent = node.start_agent();
    assert_untouched(&container);
    assert_eq!(excluded_cgroups(&node).keys().count(), 1);
}

#[test]
fn the_entry_of_a_pod_that_ended_is_removed() {
    let node = node();
    node.put("pod.yaml", &[excluded()]);
    let cgroup = node.pod_cgroup(UID).unwrap();
    let _agent = node.start_agent();
    eventually_excluded(&node, 1);
    node.remove("pod.yaml");
    eventually_excluded(&node, 0);
    cgroup.remove().unwrap();
    assert!(excluded_cgroups(&node).keys().next().is_none());
    assert_eq!(levels(&node), 0, "no pod is excluded, so no call may pay for it");
}

#[test]
fn a_running_pod_without_a_cgroup_is_reported_once() {
    let node = node();
    node.put("pod.yaml", &[excluded()]);
    let agent = node.start_agent();
    eventually("the missing cgroup to be reported", || {
        let log = agent.log();
        holds(
            log.contains("Pod shop/meshed: it is excluded, but its connections are translated"),
            &log,
        )
    });
    assert_logged_once(
        &agent,
        "Pod shop/meshed: it is excluded, but its connections are translated",
    );
    eventually("the status to say so", || {
        let status = String::from_utf8(node.look(&["status"]).stdout).unwrap();
        holds(status.contains("NOT found: its connections are translated"), status)
    });
    let metrics = agent.metrics().unwrap();
    assert_eq!(series(&metrics, "sockline_excluded_pods_unresolved"), Some(1.0), "{metrics}");
    let _cgroup = node.pod_cgroup(UID).unwrap();
    eventually_excluded(&node, 1);
}

#[test]
fn removed_entries_of_the_map_are_restored() {
    let node = node();
    node.put("pod.yaml", &[excluded()]);
    let container = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let _agent = node.start_agent_with(&REPAIRS);
    assert_untouched(&container);
    let mut map = excluded_cgroups(&node);
    let ids: Vec<u64> = map.keys().collect::<Result<_, _>>().unwrap();
    assert_eq!(ids.len(), 1);
    map.remove(&ids[0]).unwrap();
    eventually("the entry to be repaired", || untouched(&container));
    let mut levels: Array<MapData, u32> = open(&node, "EXCLUDED_LEVELS");
    levels.set(0, 0, 0).unwrap();
    eventually("the levels to be repaired", || untouched(&container));
}

fn open<M: TryFrom<Map, Error = aya::maps::MapError>>(node: &WebNode, name: &str) -> M {
    let data = MapData::from_pin(Pins::in_bpffs(node.bpffs()).map(name)).unwrap();
    let map = if name == "EXCLUDED" { Map::HashMap(data) } else { Map::Array(data) };
    map.try_into().unwrap()
}

fn excluded_cgroups(node: &WebNode) -> HashMap<MapData, u64, u32> {
    open(node, "EXCLUDED")
}

fn levels(node: &WebNode) -> u32 {
    let levels: Array<MapData, u32> = open(node, "EXCLUDED_LEVELS");
    levels.get(&0, 0).unwrap()
}
