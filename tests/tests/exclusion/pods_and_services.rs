//! Pods and services that are left alone: by label, annotation, namespace and the agent's options.

use std::{fs, net::SocketAddr};

use crate::common::{
    DEADLINE, EHOSTUNREACH, REPAIRS, Stage, assert_logged_once, eventually, holds, ip, series,
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

/// A web service, and nobody who is left alone yet.
fn stage() -> Stage {
    let stage = Stage::new(1);
    stage.put_service("web", WEB);
    stage
}

/// Waits until the kernel knows the cgroups of this many pods.
#[track_caller]
fn eventually_left_alone(stage: &Stage, count: usize) {
    eventually(&format!("{count} pods to be left alone"), || {
        let status = stage.status();
        let pods = status["agent"]["left_alone"].as_array().unwrap();
        let found = pods.iter().filter(|pod| pod["cgroup_found"] == true).count();
        holds(found == count && pods.len() == count, format!("{pods:?}"))
    });
}

#[test]
fn a_labelled_pod_is_left_alone_and_the_others_are_not() {
    let stage = stage();
    stage.put("pod.yaml", &[pod("meshed", UID, disabled()), pod("plain", OTHER_UID, json!({}))]);
    let meshed = stage.node.pod_cgroup(UID).unwrap().container(&stage.client, "a").unwrap();
    let plain = stage.node.pod_cgroup(OTHER_UID).unwrap().container(&stage.client, "b").unwrap();
    let agent = stage.agent();
    assert_untouched(&meshed);
    assert_served(&plain);
    assert_served(&stage.client);
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
fn a_pod_is_left_alone_from_its_first_process_on() {
    let stage = stage();
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let _agent = stage.agent();
    // The kubelet makes the pod's cgroup long before anything runs in the pod.
    let cgroup = stage.node.pod_cgroup(UID).unwrap();
    eventually_left_alone(&stage, 1);
    for container in ["first", "second", "restarted"] {
        let container = cgroup.container(&stage.client, container).unwrap();
        assert_untouched(&container);
    }
}

#[test]
fn a_pod_is_left_alone_while_its_label_says_so() {
    let stage = stage();
    let container = stage.node.pod_cgroup(UID).unwrap().container(&stage.client, "a").unwrap();
    stage.put("pod.yaml", &[pod("meshed", UID, json!({}))]);
    let _agent = stage.agent();
    assert_served(&container);
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    eventually("it to be left alone", || untouched(&container));
    stage.put("pod.yaml", &[pod("meshed", UID, json!({}))]);
    eventually("it to be served again", || served(&container));
}

#[test]
fn a_namespace_speaks_for_its_pods_unless_they_say_otherwise() {
    let stage = stage();
    let enabled = json!({"sockline.dev/redirect": "enabled"});
    stage.put("pod.yaml", &[pod("meshed", UID, json!({})), pod("plain", OTHER_UID, enabled)]);
    stage.put("namespace.yaml", &[namespace(disabled())]);
    let meshed = stage.node.pod_cgroup(UID).unwrap().container(&stage.client, "a").unwrap();
    let plain = stage.node.pod_cgroup(OTHER_UID).unwrap().container(&stage.client, "b").unwrap();
    let _agent = stage.agent();
    assert_untouched(&meshed);
    assert_served(&plain);
    stage.put("namespace.yaml", &[namespace(json!({}))]);
    eventually("the pod to be served", || served(&meshed));
}

#[test]
fn the_options_leave_namespaces_and_labelled_pods_alone() {
    let stage = stage();
    let enabled = json!({"sockline.dev/redirect": "enabled", "sidecar": "yes"});
    stage.put("pod.yaml", &[pod("meshed", UID, enabled), pod("plain", OTHER_UID, json!({}))]);
    let meshed = stage.node.pod_cgroup(UID).unwrap().container(&stage.client, "a").unwrap();
    let plain = stage.node.pod_cgroup(OTHER_UID).unwrap().container(&stage.client, "b").unwrap();
    let mut agent = stage.agent_with(&["--exclude-pod-selector", "sidecar in (yes,true)"]);
    assert_untouched(&meshed);
    assert_served(&plain);
    agent.stop().unwrap();
    let _agent = stage.agent_with(&["--exclude-namespaces", "kube-system,shop"]);
    assert_untouched(&meshed);
    assert_untouched(&plain);
    assert_served(&stage.client);
}

#[test]
fn a_selector_that_is_none_is_refused_with_the_option_named() {
    let stage = Stage::new(0);
    let output = stage.sockline(&["agent", "--exclude-pod-selector", "app of (x)"]);
    let error = crate::common::error_of(&output);
    assert!(!output.status.success());
    assert!(error.contains("--exclude-pod-selector") && error.contains("app of (x)"), "{error}");
}

#[test]
fn an_annotated_service_is_left_to_kube_proxy() {
    let stage = stage();
    let _agent = stage.agent();
    stage.assert_served(WEB);
    let mut service = objects::service("web", WEB);
    service["metadata"]["annotations"] = disabled();
    stage.put("web.yaml", &[service, objects::slice("web", &stage.addresses())]);
    stage.eventually_untouched(WEB);
    let listing = stage.json(&["services"]);
    let frontends = listing["frontends"].as_array().unwrap();
    assert!(!frontends.is_empty());
    for frontend in frontends {
        assert_eq!(frontend["action"], "pass", "{frontend}");
        assert_eq!(frontend["reason"], "redirect-disabled", "{frontend}");
    }
    stage.put_service("web", WEB);
    stage.eventually_served(WEB);
}

#[test]
fn pods_are_left_alone_while_the_agent_is_away_and_the_next_one_catches_up() {
    let stage = stage();
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let cgroup = stage.node.pod_cgroup(UID).unwrap();
    let container = cgroup.container(&stage.client, "a").unwrap();
    let mut agent = stage.agent();
    assert_untouched(&container);
    agent.kill().unwrap();
    assert_untouched(&container);
    // While nobody looks, one pod goes and another comes.
    stage.put("pod.yaml", &[pod("other", OTHER_UID, disabled())]);
    let other = stage.node.pod_cgroup(OTHER_UID).unwrap().container(&stage.client, "b").unwrap();
    let _agent = stage.agent();
    assert_served(&container);
    assert_untouched(&other);
}

#[test]
fn a_pod_is_heard_of_in_a_folder_that_went_and_came_back() {
    let node = Node::new().unwrap();
    let mut watcher = Watcher::new(node.cgroup());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let hear = |watcher: &mut Watcher| {
        runtime.block_on(async { tokio::time::timeout(DEADLINE, watcher.created()).await.is_ok() })
    };
    let first = node.pod_cgroup(UID).unwrap();
    assert_eq!(watcher.read().unwrap().pods.len(), 1);
    // The last pod of its class goes, and the folders of the class with it.
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
fn a_pod_that_could_not_be_left_alone_is_tried_again() {
    let stage = stage();
    let container = stage.node.pod_cgroup(UID).unwrap().container(&stage.client, "a").unwrap();
    let agent = stage.agent();
    let mut map = left_alone(&stage);
    for id in 0..u64::from(CGROUPS) {
        map.insert(u64::MAX - id, 0, 0).unwrap();
    }
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    eventually("the failure", || {
        let log = agent.log();
        holds(log.contains("although they are to be left alone: shop/meshed"), &log)
    });
    assert_served(&container);
    for id in 0..u64::from(CGROUPS) {
        map.remove(&(u64::MAX - id)).unwrap();
    }
    eventually("it to be left alone", || untouched(&container));
}

#[test]
fn pods_stay_left_alone_until_the_source_can_be_read_in_full() {
    let stage = stage();
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let container = stage.node.pod_cgroup(UID).unwrap().container(&stage.client, "a").unwrap();
    let mut agent = stage.agent();
    agent.kill().unwrap();
    stage.put_text("pod.yaml", "kind: [");
    let _agent = stage.agent();
    assert_untouched(&container);
    stage.remove("pod.yaml");
    eventually("it to be served", || served(&container));
}

#[test]
fn levels_that_were_lost_while_the_agent_was_down_are_put_right_at_the_start() {
    let stage = stage();
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let container = stage.node.pod_cgroup(UID).unwrap().container(&stage.client, "a").unwrap();
    let mut agent = stage.agent();
    let before = levels(&stage);
    for damage in [0, ANY_LEVEL] {
        agent.kill().unwrap();
        open::<Array<MapData, u32>>(&stage, "EXCLUDED_LEVELS").set(0, damage, 0).unwrap();
        agent = stage.agent();
        assert_untouched(&container);
        assert_eq!(levels(&stage), before);
    }
}

#[test]
fn a_pod_whose_cgroup_is_made_again_is_left_alone_again() {
    let stage = stage();
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let _agent = stage.agent();
    for _ in 0..3 {
        let cgroup = stage.node.pod_cgroup(UID).unwrap();
        eventually_left_alone(&stage, 1);
        let container = cgroup.container(&stage.client, "a").unwrap();
        eventually("it to be left alone", || untouched(&container));
        drop(container);
        cgroup.remove().unwrap();
    }
    let _cgroup = stage.node.pod_cgroup(UID).unwrap();
    eventually("only the last cgroup to be known", || {
        let known = left_alone(&stage).keys().count();
        holds(known == 1, known)
    });
}

#[test]
fn a_map_full_of_pods_that_ended_has_room_for_the_ones_that_came() {
    let stage = stage();
    let container = stage.node.pod_cgroup(UID).unwrap().container(&stage.client, "a").unwrap();
    let mut agent = stage.agent();
    agent.kill().unwrap();
    let mut map = left_alone(&stage);
    for id in 0..u64::from(CGROUPS) {
        map.insert(u64::MAX - id, 0, 0).unwrap();
    }
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let _agent = stage.agent();
    assert_untouched(&container);
    assert_eq!(left_alone(&stage).keys().count(), 1);
}

#[test]
fn a_pod_that_ended_is_forgotten() {
    let stage = stage();
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let cgroup = stage.node.pod_cgroup(UID).unwrap();
    let _agent = stage.agent();
    eventually_left_alone(&stage, 1);
    stage.remove("pod.yaml");
    eventually_left_alone(&stage, 0);
    cgroup.remove().unwrap();
    assert!(left_alone(&stage).keys().next().is_none());
    assert_eq!(levels(&stage), 0, "nobody is left alone, so nobody shall pay for it");
}

#[test]
fn a_running_pod_without_a_cgroup_is_told_once() {
    let stage = stage();
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let agent = stage.agent();
    eventually("the missing cgroup to be told", || {
        let log = agent.log();
        holds(log.contains("Pod shop/meshed: no cgroup v2 of it"), &log)
    });
    assert_logged_once(&agent, "Pod shop/meshed: no cgroup v2 of it");
    let metrics = agent.metrics().unwrap();
    assert_eq!(series(&metrics, "sockline_excluded_pods_unresolved"), Some(1.0), "{metrics}");
    let status = String::from_utf8(stage.look(&["status"]).stdout).unwrap();
    assert!(status.contains("NOT found: it is redirected"), "{status}");
    let _cgroup = stage.node.pod_cgroup(UID).unwrap();
    eventually_left_alone(&stage, 1);
}

#[test]
fn entries_that_vanish_from_the_map_are_mended() {
    let stage = stage();
    stage.put("pod.yaml", &[pod("meshed", UID, disabled())]);
    let container = stage.node.pod_cgroup(UID).unwrap().container(&stage.client, "a").unwrap();
    let _agent = stage.agent_with(&REPAIRS);
    assert_untouched(&container);
    let mut map = left_alone(&stage);
    let ids: Vec<u64> = map.keys().collect::<Result<_, _>>().unwrap();
    assert_eq!(ids.len(), 1);
    map.remove(&ids[0]).unwrap();
    eventually("the entry to be mended", || untouched(&container));
    let mut levels: Array<MapData, u32> = open(&stage, "EXCLUDED_LEVELS");
    levels.set(0, 0, 0).unwrap();
    eventually("the levels to be mended", || untouched(&container));
}

fn open<M: TryFrom<Map, Error = aya::maps::MapError>>(stage: &Stage, name: &str) -> M {
    let data = MapData::from_pin(Pins::in_bpffs(stage.node.bpffs()).map(name)).unwrap();
    let map = if name == "EXCLUDED" { Map::HashMap(data) } else { Map::Array(data) };
    map.try_into().unwrap()
}

fn left_alone(stage: &Stage) -> HashMap<MapData, u64, u32> {
    open(stage, "EXCLUDED")
}

fn levels(stage: &Stage) -> u32 {
    let levels: Array<MapData, u32> = open(stage, "EXCLUDED_LEVELS");
    levels.get(&0, 0).unwrap()
}
