//! Services that change their type: `service.go`.

use serde_json::{Value, json};
use sockline_testbed::Protocol::{Tcp, Udp};

use crate::{
    kubernetes_cluster::{KubernetesCluster, port, service, service_of_type},
    pods::Server,
    reach::{assert_not_served, assert_reaches, assert_refused},
};

/// As the suite creates it: without ports and selector, which the testbed's services always have.
fn external_name(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "foo.example.com"},
    })
}

/// As the suite updates it: to this type, with a selector and one port.
fn of_type(kind: &'static str) -> impl FnOnce(&mut Value) {
    move |service| {
        let name = service["metadata"]["name"].as_str().unwrap().to_owned();
        service["spec"] = service_of_type(kind, &name)["spec"].take();
    }
}

fn start_two(cluster: &mut KubernetesCluster, app: &str) {
    cluster.start_all(["pod1", "pod2"].map(|name| Server::new(name, app).tcp(80).udp(80)));
}

/// should be able to change the type from ExternalName to ClusterIP [Conformance]
#[test]
fn should_be_able_to_change_the_type_from_external_name_to_cluster_ip() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    cluster.create(external_name("externalname-service"));
    cluster.update("externalname-service", of_type("ClusterIP"));
    start_two(&mut cluster, "externalname-service");
    assert_reaches(&client, cluster.at("externalname-service", 80), Tcp, &["pod1", "pod2"]);
}

/// should be able to change the type from ExternalName to NodePort [Conformance]
#[test]
fn should_be_able_to_change_the_type_from_external_name_to_node_port() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    cluster.create(external_name("externalname-service"));
    cluster.update("externalname-service", of_type("NodePort"));
    start_two(&mut cluster, "externalname-service");
    let name = "externalname-service";
    for to in [cluster.at(name, 80), cluster.at_node(0, name, 80)] {
        assert_reaches(&client, to, Tcp, &["pod1", "pod2"]);
    }
}

/// should be able to change the type from ClusterIP to ExternalName [Conformance]
#[test]
fn should_be_able_to_change_the_type_from_cluster_ip_to_external_name() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    cluster.create(service("clusterip-service"));
    start_two(&mut cluster, "clusterip-service");
    let old = cluster.at("clusterip-service", 80);
    assert_reaches(&client, old, Tcp, &["pod1", "pod2"]);
    cluster.update("clusterip-service", |service| *service = external_name("clusterip-service"));
    assert_not_served(&client, old, Tcp);
}

/// should be able to change the type from NodePort to ExternalName [Conformance]
#[test]
fn should_be_able_to_change_the_type_from_node_port_to_external_name() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    cluster.create(service_of_type("NodePort", "nodeport-service"));
    start_two(&mut cluster, "nodeport-service");
    let (old, at_node) =
        (cluster.at("nodeport-service", 80), cluster.at_node(0, "nodeport-service", 80));
    assert_reaches(&client, at_node, Tcp, &["pod1", "pod2"]);
    cluster.update("nodeport-service", |service| *service = external_name("nodeport-service"));
    assert_not_served(&client, old, Tcp);
    // The port is the node's own again.
    let _own = cluster.host(0).tcp_server(at_node.port()).unwrap();
    assert_reaches(&client, at_node, Tcp, &["node"]);
}

/// should be able to update service type to NodePort listening on same port number but different
/// protocols
#[test]
fn should_be_able_to_update_service_type_to_node_port_on_same_port_but_different_protocols() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    let name = "nodeport-update-service";
    cluster.create(service(name));
    cluster.update(name, |service| {
        service["spec"]["type"] = "NodePort".into();
        service["spec"]["ports"] = json!([port("tcp-port", "TCP", 80, 80)]);
    });
    start_two(&mut cluster, name);
    let both = ["pod1", "pod2"];
    for to in [cluster.at(name, 80), cluster.at_node(0, name, 80)] {
        assert_reaches(&client, to, Tcp, &both);
    }
    assert_not_served(&client, cluster.at(name, 80), Udp);
    cluster.update(name, |service| {
        service["spec"]["ports"] =
            json!([port("tcp-port", "TCP", 80, 80), port("udp-port", "UDP", 80, 80)]);
    });
    for to in [cluster.at(name, 80), cluster.at_node(0, name, 80)] {
        for protocol in [Tcp, Udp] {
            assert_reaches(&client, to, protocol, &both);
            assert_reaches(cluster.host(0), to, protocol, &both);
        }
    }
    cluster.update(name, |service| service["spec"]["selector"] = json!({"app": "nobody"}));
    for protocol in [Tcp, Udp] {
        assert_refused(&client, cluster.at_node(0, name, 80), protocol);
    }
}
