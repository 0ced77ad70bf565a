//! Services with several ports, or with other ports than before: `service.go`.

use serde_json::json;
use sockline_testbed::Protocol::{Tcp, Udp};

use crate::{
    kubernetes_cluster::{KubernetesCluster, port, service, service_of_type},
    pods::Server,
    reach::{assert_not_served, assert_reaches, assert_refused},
};

/// should serve multiport endpoints from pods [Conformance]
#[test]
fn should_serve_multiport_endpoints_from_pods() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    let mut multi = service("multi-endpoint-test");
    multi["spec"]["ports"] =
        json!([port("portname1", "TCP", 80, "svc1"), port("portname2", "TCP", 81, "svc2")]);
    cluster.create(multi);
    let (first, second) =
        (cluster.at("multi-endpoint-test", 80), cluster.at("multi-endpoint-test", 81));
    cluster.start(Server::new("pod1", "multi-endpoint-test").named("svc1", "TCP", 100));
    assert_reaches(&client, first, Tcp, &["pod1"]);
    assert_refused(&client, second, Tcp);
    cluster.start(Server::new("pod2", "multi-endpoint-test").named("svc2", "TCP", 101));
    assert_reaches(&client, first, Tcp, &["pod1"]);
    assert_reaches(&client, second, Tcp, &["pod2"]);
    cluster.stop("pod1");
    assert_refused(&client, first, Tcp);
    assert_reaches(&client, second, Tcp, &["pod2"]);
    cluster.stop("pod2");
    assert_refused(&client, second, Tcp);
}

/// should be updated after adding or deleting ports
#[test]
fn should_be_updated_after_adding_or_deleting_ports() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    let (one, two) = (port("portname1", "TCP", 80, "svc1"), port("portname2", "TCP", 81, "svc2"));
    let mut edited = service("edit-port-test");
    edited["spec"]["ports"] = json!([one]);
    cluster.create(edited);
    let (first, second) = (cluster.at("edit-port-test", 80), cluster.at("edit-port-test", 81));
    cluster.start(Server::new("pod1", "edit-port-test").named("svc1", "TCP", 100));
    assert_reaches(&client, first, Tcp, &["pod1"]);
    assert_not_served(&client, second, Tcp);
    cluster.update("edit-port-test", |service| service["spec"]["ports"] = json!([one, two]));
    cluster.start(Server::new("pod2", "edit-port-test").named("svc2", "TCP", 101));
    assert_reaches(&client, first, Tcp, &["pod1"]);
    assert_reaches(&client, second, Tcp, &["pod2"]);
    cluster.update("edit-port-test", |service| service["spec"]["ports"] = json!([one]));
    assert_reaches(&client, first, Tcp, &["pod1"]);
    assert_not_served(&client, second, Tcp);
}

/// should serve endpoints on same port and different protocols [Conformance]
#[test]
fn should_serve_endpoints_on_same_port_and_different_protocols() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    let (tcp, udp) = (port("tcp-port", "TCP", 80, 80), port("udp-port", "UDP", 80, 80));
    let mut multi = service("multiprotocol-test");
    multi["spec"]["ports"] = json!([tcp, udp]);
    cluster.create(multi);
    cluster.start(Server::new("pod1", "multiprotocol-test").tcp(80).udp(80));
    let to = cluster.at("multiprotocol-test", 80);
    assert_reaches(&client, to, Tcp, &["pod1"]);
    assert_reaches(&client, to, Udp, &["pod1"]);
    cluster.update("multiprotocol-test", |service| service["spec"]["ports"] = json!([tcp]));
    assert_reaches(&client, to, Tcp, &["pod1"]);
    assert_not_served(&client, to, Udp);
    cluster.update("multiprotocol-test", |service| service["spec"]["ports"] = json!([udp]));
    assert_reaches(&client, to, Udp, &["pod1"]);
    assert_not_served(&client, to, Tcp);
}

/// should serve endpoints on same port and different protocol for internal traffic on Type
/// LoadBalancer
#[test]
fn should_serve_endpoints_on_same_port_and_different_protocol_for_internal_traffic() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    let mut balanced = service_of_type("LoadBalancer", "multiprotocol-lb-test");
    balanced["spec"]["ports"] =
        json!([port("portname1", "TCP", 80, "svc1"), port("portname2", "UDP", 80, "svc2")]);
    cluster.create(balanced);
    let pod1 = Server::new("pod1", "multiprotocol-lb-test");
    cluster.start(pod1.named("svc1", "TCP", 100).named("svc2", "UDP", 100));
    let cluster_ip = cluster.at("multiprotocol-lb-test", 80);
    for to in [cluster_ip, cluster.at_node(0, "multiprotocol-lb-test", 80)] {
        assert_reaches(&client, to, Tcp, &["pod1"]);
        assert_reaches(&client, to, Udp, &["pod1"]);
    }
}
