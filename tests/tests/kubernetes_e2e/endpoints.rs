//! Endpoints that are not ready: `service.go`. Slices that a user makes: `endpointslice.go`.

use serde_json::{Value, json};
use sockline_testbed::Protocol::Tcp;

use crate::{
    controller,
    kubernetes_cluster::{KubernetesCluster, port, service, service_of_type},
    pods::Server,
    reach::{assert_reaches, assert_refused},
};

pub fn publish_not_ready(service: &mut Value) {
    service["spec"]["publishNotReadyAddresses"] = true.into();
}

pub fn publish_only_ready(service: &mut Value) {
    service["spec"]["publishNotReadyAddresses"] = false.into();
}

/// should create endpoints for unready pods
#[test]
fn should_create_endpoints_for_unready_pods() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    let mut tolerant = service("tolerate-unready");
    publish_not_ready(&mut tolerant);
    cluster.create(tolerant);
    let to = cluster.at("tolerate-unready", 80);
    let pod = "slow-terminating-unready-pod";
    cluster.start(Server::new(pod, "tolerate-unready").tcp(80).unready());
    assert_reaches(&client, to, Tcp, &[pod]);
    cluster.terminate(pod);
    cluster.update("tolerate-unready", publish_only_ready);
    assert_refused(&client, to, Tcp);
    cluster.update("tolerate-unready", publish_not_ready);
    assert_reaches(&client, to, Tcp, &[pod]);
    cluster.stop(pod);
    assert_refused(&client, to, Tcp);
}

/// A NodePort service with a pod on node 0 that is terminating and not ready any more.
fn unready_and_terminating(publish: fn(&mut Value)) -> KubernetesCluster {
    let mut cluster = KubernetesCluster::of_two_nodes();
    let mut service = service_of_type("NodePort", "svc-unready");
    publish(&mut service);
    cluster.create(service);
    cluster.start(Server::new("webserver-pod", "svc-unready").tcp(80));
    let client = cluster.client(1);
    assert_reaches(&client, cluster.at("svc-unready", 80), Tcp, &["webserver-pod"]);
    cluster.mark("webserver-pod", |pod| (pod.terminating, pod.ready) = (true, false));
    cluster
}

/// should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is
/// true
#[test]
fn should_be_able_to_connect_to_terminating_and_unready_endpoints_if_published() {
    let mut cluster = unready_and_terminating(publish_not_ready);
    let client = cluster.client(1);
    for to in [cluster.at("svc-unready", 80), cluster.at_node(1, "svc-unready", 80)] {
        assert_reaches(&client, to, Tcp, &["webserver-pod"]);
    }
}

/// should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses
/// is false
#[test]
fn should_not_be_able_to_connect_to_terminating_and_unready_endpoints_if_not_published() {
    let mut cluster = unready_and_terminating(publish_only_ready);
    let client = cluster.client(1);
    let number = cluster.node_port("svc-unready", 80);
    let _own = cluster.host(1).tcp_server(number).unwrap();
    for to in [cluster.at("svc-unready", 80), cluster.at_node(1, "svc-unready", 80)] {
        assert_refused(&client, to, Tcp);
    }
}

/// A service without a selector, with the ports 80 and 81.
fn by_hand(name: &str) -> Value {
    let mut service = service(name);
    service["spec"]["selector"] = Value::Null;
    service["spec"]["ports"] =
        json!([port("first", "TCP", 80, 3000), port("second", "TCP", 81, 3001)]);
    service
}

fn slice(
    cluster: &KubernetesCluster,
    name: &str,
    suffix: &str,
    ports: &[(&str, u16)],
    pods: &[&str],
) -> Value {
    let ports: Vec<_> =
        ports.iter().map(|(name, port)| ((*name).to_owned(), "TCP".to_owned(), *port)).collect();
    let address = |pod: &&str| json!({"addresses": [cluster.server(pod).addresses()[0]]});
    let endpoints: Vec<Value> = pods.iter().map(address).collect();
    controller::slice(cluster.service(name), suffix, "IPv4", &ports, &endpoints)
}

/// Two pods that listen on both ports.
fn cluster_with_slices_by_hand(name: &str) -> KubernetesCluster {
    let mut cluster = KubernetesCluster::new();
    cluster.create(by_hand(name));
    cluster.start_all(["pod1", "pod2"].map(|pod| Server::new(pod, "any").tcp(3000).tcp(3001)));
    cluster
}

/// should support a Service with multiple ports specified in multiple EndpointSlices
#[test]
fn should_support_a_service_with_multiple_ports_in_multiple_endpoint_slices() {
    let name = "example-custom-endpoints";
    let mut cluster = cluster_with_slices_by_hand(name);
    let client = cluster.client(0);
    let slices = vec![
        slice(&cluster, name, "a", &[("first", 3000)], &["pod1", "pod2"]),
        slice(&cluster, name, "b", &[("second", 3001)], &["pod1", "pod2"]),
    ];
    cluster.put_slices(slices);
    for number in [80, 81] {
        assert_reaches(&client, cluster.at(name, number), Tcp, &["pod1", "pod2"]);
    }
}

/// should support a Service with multiple endpoint IPs specified in multiple EndpointSlices
#[test]
fn should_support_a_service_with_multiple_endpoint_ips_in_multiple_endpoint_slices() {
    let name = "example-custom-endpoints";
    let mut cluster = cluster_with_slices_by_hand(name);
    let client = cluster.client(0);
    let both = [("first", 3000), ("second", 3001)];
    let slices = vec![
        slice(&cluster, name, "a", &both, &["pod1"]),
        slice(&cluster, name, "b", &both, &["pod2"]),
    ];
    cluster.put_slices(slices);
    for number in [80, 81] {
        assert_reaches(&client, cluster.at(name, number), Tcp, &["pod1", "pod2"]);
    }
}
