//! A service and its pods as such: `service.go`.

use serde_json::json;
use sockline_testbed::Protocol::Tcp;

use crate::{
    kubernetes_cluster::{KubernetesCluster, service},
    pods::Server,
    reach::{assert_not_served, assert_reaches, assert_refused},
};

/// should serve a basic endpoint from pods [Conformance]
#[test]
fn should_serve_a_basic_endpoint_from_pods() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    cluster.create(service("endpoint-test2"));
    let to = cluster.at("endpoint-test2", 80);
    assert_refused(&client, to, Tcp);
    cluster.start(Server::new("pod1", "endpoint-test2").tcp(80));
    assert_reaches(&client, to, Tcp, &["pod1"]);
    cluster.start(Server::new("pod2", "endpoint-test2").tcp(80));
    assert_reaches(&client, to, Tcp, &["pod1", "pod2"]);
    cluster.stop("pod1");
    assert_reaches(&client, to, Tcp, &["pod2"]);
    cluster.stop("pod2");
    assert_refused(&client, to, Tcp);
}

/// should preserve source pod IP for traffic thru service cluster IP [LinuxOnly]
#[test]
fn should_preserve_source_pod_ip_for_traffic_thru_service_cluster_ip() {
    let mut cluster = KubernetesCluster::of_two_nodes();
    cluster.create(service("sourceip-test"));
    cluster.start(Server::new("echo-sourceip", "sourceip-test").tcp(80));
    let to = cluster.at("sourceip-test", 80);
    for node in [0, 1] {
        let client = cluster.client(node);
        assert_eq!(client.tcp_ask(to).unwrap().who, "echo-sourceip");
        let seen = cluster.server("echo-sourceip").tcp_peers();
        assert_eq!(seen.last(), Some(&client.addresses()[0]), "from node {node}");
    }
}

/// should allow pods to hairpin back to themselves through services
#[test]
fn should_allow_pods_to_hairpin_back_to_themselves_through_services() {
    let mut cluster = KubernetesCluster::new();
    cluster.create(service("hairpin-test"));
    cluster.start(Server::new("hairpin", "hairpin-test").tcp(80));
    let to = cluster.at("hairpin-test", 80);
    assert_reaches(cluster.server("hairpin").ns(), to, Tcp, &["hairpin"]);
}

/// Starts three pods named `<app>-0` and so on.
fn start_three(cluster: &mut KubernetesCluster, app: &str) -> [String; 3] {
    let names = [0, 1, 2].map(|number| format!("{app}-{number}"));
    cluster.start_all(names.iter().map(|name| Server::new(name, app).tcp(80)));
    names
}

/// From the node's own network namespace and from a pod, as in the suite.
#[track_caller]
fn assert_up(cluster: &mut KubernetesCluster, name: &str, pods: &[String; 3]) {
    let to = cluster.at(name, 80);
    let pods = pods.each_ref().map(String::as_str);
    assert_reaches(cluster.host(0), to, Tcp, &pods);
    assert_reaches(&cluster.client(0), to, Tcp, &pods);
}

/// should be able to up and down services
#[test]
fn should_be_able_to_up_and_down_services() {
    let mut cluster = KubernetesCluster::new();
    cluster.create_all(["up-down-1", "up-down-2"].map(service));
    let pods1 = start_three(&mut cluster, "up-down-1");
    let pods2 = start_three(&mut cluster, "up-down-2");
    assert_up(&mut cluster, "up-down-1", &pods1);
    assert_up(&mut cluster, "up-down-2", &pods2);
    let gone = cluster.at("up-down-1", 80);
    cluster.delete("up-down-1");
    assert_not_served(cluster.host(0), gone, Tcp);
    assert_up(&mut cluster, "up-down-2", &pods2);
    cluster.create(service("up-down-3"));
    let pods3 = start_three(&mut cluster, "up-down-3");
    assert_up(&mut cluster, "up-down-2", &pods2);
    assert_up(&mut cluster, "up-down-3", &pods3);
    assert_not_served(cluster.host(0), gone, Tcp);
}

/// should work after the service has been recreated
#[test]
fn should_work_after_the_service_has_been_recreated() {
    let mut cluster = KubernetesCluster::new();
    cluster.create(service("service-deletion"));
    let pods = start_three(&mut cluster, "service-deletion");
    assert_up(&mut cluster, "service-deletion", &pods);
    let old = cluster.at("service-deletion", 80);
    cluster.delete("service-deletion");
    assert_not_served(cluster.host(0), old, Tcp);
    cluster.create(service("service-deletion"));
    assert_ne!(cluster.at("service-deletion", 80), old);
    assert_up(&mut cluster, "service-deletion", &pods);
}

/// A service that always has the label is never served; one that gets it and loses it again is
/// served whenever it does not have it.
fn is_not_served_with(label: &str) {
    let labels = json!({ label: "foo-bar" });
    let mut cluster = KubernetesCluster::new();
    let mut disabled = service("disabled");
    disabled["metadata"]["labels"] = labels.clone();
    cluster.create_all([disabled, service("toggled")]);
    start_three(&mut cluster, "disabled");
    let pods = start_three(&mut cluster, "toggled");
    let (disabled, toggled) = (cluster.at("disabled", 80), cluster.at("toggled", 80));
    assert_up(&mut cluster, "toggled", &pods);
    assert_not_served(cluster.host(0), disabled, Tcp);
    cluster.update("toggled", |service| service["metadata"]["labels"] = labels);
    assert_not_served(cluster.host(0), toggled, Tcp);
    cluster.update("toggled", |service| service["metadata"]["labels"] = json!({}));
    assert_up(&mut cluster, "toggled", &pods);
    assert_not_served(cluster.host(0), disabled, Tcp);
}

/// should implement service.kubernetes.io/service-proxy-name
#[test]
fn should_implement_service_proxy_name() {
    is_not_served_with("service.kubernetes.io/service-proxy-name");
}

/// should implement service.kubernetes.io/headless
#[test]
fn should_implement_headless() {
    is_not_served_with("service.kubernetes.io/headless");
}
