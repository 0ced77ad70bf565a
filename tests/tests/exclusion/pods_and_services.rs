//! Excluded pods and services: by label, annotation, namespace and the agent's options.

use std::{fs, net::SocketAddr};

use crate::common::{
    DEADLINE, EHOSTUNREACH, REPAIRS, WebNode, assert_logged_once, eventually, holds, ip, series,
};
use aya::maps::{Array, HashMap, Map, MapData};
use serde_json::{Value, json};
use sockline::{cgroups::Watcher, dataplane::Pins};
use sockline_ebpf::exclusion::{ANY_LEVEL, CGROUPS};
use sockline_testbed::{Node, Ns, objects};

const WEB: &str = "10.96.0.10";
const UID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";
const OTHER_UID: &str = "7d1f6a52-2f0b-4b7c-9a57-0c1f4d7f2b20";

/// A running Pod of this node with these labels.
fn pod(name: &str, uid: &str, labels: impl Into<Value>) -> Value {
    let labels = labels.into();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "labels": labels},
        "spec": {"nodeName": "node-a"},
        "status": {"phase": "Running"},
    })
}

fn disabled() -> Value {
    json!({"sockline.dev/redirect": "disabled"})
}

fn namespace(labels: impl Into<Value>) -> Value {
    let labels = labels.into();
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "shop", "labels": labels},
    })
}

/// Whether a connect goes out as if there were no Sockline: to nowhere.
fn untouched(container: &Ns) -> Result<(), String> {
    crate::common::untouched(container, WEB)
}

fn served(container: &Ns) -> Result<(), String> {
    let seen = container.tcp_ask(SocketAddr::new(ip(WEB), 80));
    holds(seen.is_ok(), format!("{seen:?}"))
}

#[track_caller]
fn assert_untouched(container: &Ns) {
    if let Err(seen) = untouched(container) {
        panic!("{seen}");
    }
}

#[track_caller]
fn assert_served(container: &Ns) {
    if let Err(seen) = served(container) {
        panic!("not served: {seen}");
    }
}

/// A web service; no pod is excluded yet.
fn node() -> WebNode {
    let node = WebNode::new(1);
    node.put_service("web", WEB);
    node
}

/// Waits until the kernel knows the cgroups of this many pods.
#[track_caller]
fn eventually_left_alone(node: &WebNode, count: usize) {
    eventually(&format!("{count} pods to be left alone"), || {
        let status = node.status();
        let pods = status["agent"]["excludedPods"].as_array().unwrap();
        let found = pods.iter().filter(|pod| pod["state"] == "excluded").count();
        holds(found == count && pods.len() == count, format!("{pods:?}"))
    });
}

#[test]
fn only_the_labelled_pod_is_excluded() {
    let node = node();
    node.put("pod.yaml", &[pod("meshed", UID, disabled()), pod("plain", OTHER_UID, json!({}))]);
    let meshed = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let plain = node.pod_cgroup(OTHER_UID).unwrap().container(&node.client, "b").unwrap();
    let agent = node.start_agent();
    assert_untouched(&meshed);
    assert_served(&plain);
    assert_served(&node.client);
    let dns = SocketAddr::new(ip(WEB), 53);
    assert!(plain.udp_ask(dns, "?").is_ok());
    assert_eq!(meshed.udp_ask(dns, "?").unwrap_err().raw_os_error(), Some(EHOSTUNREACH));
    let bypassed = "sockline_connections_bypassed_total\
                    {namespace=\"shop\",service=\"web\",protocol=\"TCP\",reason=\"planned\"}";
    let metrics = agent.metrics().unwrap();
    assert_eq!(series(&metrics, bypassed), Some(1.0), "{metrics}");
    assert_eq!(series(&metrics, "sockline_excluded_pods"), Some(1.0), "{metrics}");
}

#[test]
fn a_pod_is_excluded_from_its_first_process_on() {
    let node = node();
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let _agent = node.start_agent();
    // The kubelet makes the pod's cgroup long before anything runs in the pod.
    let cgroup = node.pod_cgroup(UID).unwrap();
    eventually_left_alone(&node, 1);
    for container in ["first", "second", "restarted"] {
        let container = cgroup.container(&node.client, container).unwrap();
        assert_untouched(&container);
    }
}

#[test]
fn a_pod_is_excluded_while_it_has_the_label() {
    let node = node();
    let container = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    node.put("pod.yaml", &[pod("meshed", UID, json!({}))]);
    let _agent = node.start_agent();
    assert_served(&container);
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    eventually("it to be left alone", || untouched(&container));
    node.put("pod.yaml", &[pod("meshed", UID, json!({}))]);
    eventually("it to be served again", || served(&container));
}

#[test]
fn a_pods_label_overrides_the_label_of_its_namespace() {
    let node = node();
    let enabled = json!({"sockline.dev/redirect": "enabled"});
    node.put("pod.yaml", &[pod("meshed", UID, json!({})), pod("plain", OTHER_UID, enabled)]);
    node.put("namespace.yaml", &[namespace(disabled())]);
    let meshed = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let plain = node.pod_cgroup(OTHER_UID).unwrap().container(&node.client, "b").unwrap();
    let _agent = node.start_agent();
    assert_untouched(&meshed);
    assert_served(&plain);
    node.put("namespace.yaml", &[namespace(json!({}))]);
    eventually("the pod to be served", || served(&meshed));
}

#[test]
fn the_options_exclude_namespaces_and_labelled_pods() {
    let node = node();
    let enabled = json!({"sockline.dev/redirect": "enabled", "sidecar": "yes"});
    node.put("pod.yaml", &[pod("meshed", UID, enabled), pod("plain", OTHER_UID, json!({}))]);
    let meshed = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let plain = node.pod_cgroup(OTHER_UID).unwrap().container(&node.client, "b").unwrap();
    let mut agent = node.start_agent_with(&["--exclude-pod-selector", "sidecar in (yes,true)"]);
    assert_untouched(&meshed);
    assert_served(&plain);
    agent.stop().unwrap();
    let _agent = node.start_agent_with(&["--exclude-namespaces", "kube-system,shop"]);
    assert_untouched(&meshed);
    assert_untouched(&plain);
    assert_served(&node.client);
}

#[test]
fn an_invalid_selector_is_an_error_that_names_the_option() {
    let node = WebNode::new(0);
    let output = node.sockline(&["agent", "--exclude-pod-selector", "app of (x)"]);
    let error = crate::common::error_of(&output);
    assert!(!output.status.success());
    assert!(error.contains("--exclude-pod-selector") && error.contains("app of (x)"), "{error}");
}

#[test]
fn an_excluded_service_is_left_to_kube_proxy() {
    let node = node();
    let _agent = node.start_agent();
    node.assert_served(WEB);
    let mut service = objects::service("web", WEB);
    service["metadata"]["annotations"] = disabled();
    node.put("web.yaml", &[service, objects::slice("web", &node.web_addresses())]);
    node.eventually_untouched(WEB);
    let listing = node.json(&["services"]);
    let frontends = listing["items"].as_array().unwrap();
    assert!(!frontends.is_empty());
    for frontend in frontends {
        assert_eq!(frontend["action"], "bypass", "{frontend}");
        assert_eq!(frontend["reason"], "redirect-disabled", "{frontend}");
    }
    node.put_service("web", WEB);
    node.eventually_served(WEB);
}

#[test]
fn pods_stay_excluded_without_an_agent_and_the_next_agent_applies_what_changed() {
    let node = node();
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let cgroup = node.pod_cgroup(UID).unwrap();
    let container = cgroup.container(&node.client, "a").unwrap();
    let mut agent = node.start_agent();
    assert_untouched(&container);
    agent.kill().unwrap();
    assert_untouched(&container);
    // Without an agent, one pod is removed and another is created.
    node.put("pod.yaml", &[pod("other", OTHER_UID, disabled())]);
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
    let mut map = left_alone(&node);
    for id in 0..u64::from(CGROUPS) {
        map.insert(u64::MAX - id, 0, 0).unwrap();
    }
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    eventually("the failure", || {
        let log = agent.log();
        holds(log.contains("these excluded pods are redirected: shop/meshed"), &log)
    });
    assert_served(&container);
    for id in 0..u64::from(CGROUPS) {
        map.remove(&(u64::MAX - id)).unwrap();
    }
    eventually("it to be left alone", || untouched(&container));
}

#[test]
fn pods_stay_excluded_until_the_source_can_be_read_in_full() {
    let node = node();
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
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
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
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
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let _agent = node.start_agent();
    for _ in 0..3 {
        let cgroup = node.pod_cgroup(UID).unwrap();
        eventually_left_alone(&node, 1);
        let container = cgroup.container(&node.client, "a").unwrap();
        eventually("it to be left alone", || untouched(&container));
        drop(container);
        cgroup.remove().unwrap();
    }
    let _cgroup = node.pod_cgroup(UID).unwrap();
    eventually("only the last cgroup to be known", || {
        let known = left_alone(&node).keys().count();
        holds(known == 1, known)
    });
}

#[test]
fn entries_of_ended_pods_make_room_for_new_pods() {
    let node = node();
    let container = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let mut agent = node.start_agent();
    agent.kill().unwrap();
    let mut map = left_alone(&node);
    for id in 0..u64::from(CGROUPS) {
        map.insert(u64::MAX - id, 0, 0).unwrap();
    }
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let _agent = node.start_agent();
    assert_untouched(&container);
    assert_eq!(left_alone(&node).keys().count(), 1);
}

#[test]
fn the_entry_of_a_pod_that_ended_is_removed() {
    let node = node();
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let cgroup = node.pod_cgroup(UID).unwrap();
    let _agent = node.start_agent();
    eventually_left_alone(&node, 1);
    node.remove("pod.yaml");
    eventually_left_alone(&node, 0);
    cgroup.remove().unwrap();
    assert!(left_alone(&node).keys().next().is_none());
    assert_eq!(levels(&node), 0, "no pod is excluded, so no call may pay for it");
}

#[test]
fn a_running_pod_without_a_cgroup_is_reported_once() {
    let node = node();
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let agent = node.start_agent();
    eventually("the missing cgroup to be reported", || {
        let log = agent.log();
        holds(
            log.contains("Pod shop/meshed: it is excluded, but its connections are redirected"),
            &log,
        )
    });
    assert_logged_once(
        &agent,
        "Pod shop/meshed: it is excluded, but its connections are redirected",
    );
    let metrics = agent.metrics().unwrap();
    assert_eq!(series(&metrics, "sockline_excluded_pods_unresolved"), Some(1.0), "{metrics}");
    let status = String::from_utf8(node.look(&["status"]).stdout).unwrap();
    assert!(status.contains("NOT found: its connections are translated"), "{status}");
    let _cgroup = node.pod_cgroup(UID).unwrap();
    eventually_left_alone(&node, 1);
}

#[test]
fn removed_entries_of_the_map_are_restored() {
    let node = node();
    node.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let container = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let _agent = node.start_agent_with(&REPAIRS);
    assert_untouched(&container);
    let mut map = left_alone(&node);
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

fn left_alone(node: &WebNode) -> HashMap<MapData, u64, u32> {
    open(node, "EXCLUDED")
}

fn levels(node: &WebNode) -> u32 {
    let levels: Array<MapData, u32> = open(node, "EXCLUDED_LEVELS");
    levels.get(&0, 0).unwrap()
}
