//! Which pods and services are excluded: labels, annotations and options.

use std::net::SocketAddr;

use serde_json::json;
use sockline_testbed::objects;

use super::{
    OTHER_UID, REDIRECT, UID, WEB, assert_served, assert_untouched, eventually_excluded, excluded,
    meshed, node, plain, served, untouched,
};
use crate::common::{EHOSTUNREACH, WebNode, eventually, ip, series};

#[test]
fn only_the_labelled_pod_is_excluded() {
    let node = node();
    node.put("pod.yaml", &[excluded(), plain().object()]);
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
                    {namespace=\"shop\",service=\"web\",port=\"web\",protocol=\"TCP\",reason=\"planned\"}";
    let metrics = agent.metrics().unwrap();
    assert_eq!(series(&metrics, bypassed), Some(1.0), "{metrics}");
    assert_eq!(series(&metrics, "sockline_excluded_pods"), Some(1.0), "{metrics}");
}

#[test]
fn a_pod_is_excluded_from_its_first_process_on() {
    let node = node();
    node.put("pod.yaml", &[excluded()]);
    let _agent = node.start_agent();
    // The kubelet makes the pod's cgroup long before anything runs in the pod.
    let cgroup = node.pod_cgroup(UID).unwrap();
    eventually_excluded(&node, 1);
    for container in ["first", "second", "restarted"] {
        let container = cgroup.container(&node.client, container).unwrap();
        assert_untouched(&container);
    }
}

#[test]
fn a_pod_is_excluded_while_it_has_the_label() {
    let node = node();
    let container = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    node.put("pod.yaml", &[meshed().object()]);
    let _agent = node.start_agent();
    assert_served(&container);
    node.put("pod.yaml", &[excluded()]);
    eventually("it to be excluded", || untouched(&container));
    node.put("pod.yaml", &[meshed().object()]);
    eventually("it to be served again", || served(&container));
}

#[test]
fn a_pods_label_overrides_the_label_of_its_namespace() {
    let node = node();
    let enabled = plain().label(REDIRECT, "enabled").object();
    node.put("pod.yaml", &[meshed().object(), enabled]);
    let disabled = objects::namespace("shop", json!({REDIRECT: "disabled"}));
    node.put("namespace.yaml", &[disabled]);
    let meshed = node.pod_cgroup(UID).unwrap().container(&node.client, "a").unwrap();
    let plain = node.pod_cgroup(OTHER_UID).unwrap().container(&node.client, "b").unwrap();
    let _agent = node.start_agent();
    assert_untouched(&meshed);
    assert_served(&plain);
    node.put("namespace.yaml", &[objects::namespace("shop", json!({}))]);
    eventually("the pod to be served", || served(&meshed));
}

#[test]
fn the_options_exclude_namespaces_and_labelled_pods() {
    let node = node();
    let sidecar = meshed().label(REDIRECT, "enabled").label("sidecar", "yes").object();
    node.put("pod.yaml", &[sidecar, plain().object()]);
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
    service["metadata"]["annotations"] = json!({REDIRECT: "disabled"});
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
