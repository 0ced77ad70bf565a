//! Services that nothing is behind: `service.go`.
//!
//! The suite asks for the cluster IP from a pod; here every way in is asked for.

use serde_json::{Value, json};
use sockline_testbed::Protocol::{Tcp, Udp};

use crate::{
    endpoints::{publish_not_ready, publish_only_ready},
    kubernetes_cluster::{KubernetesCluster, port, service_of_type},
    pods::Server,
    reach::{assert_reaches, assert_refused},
};

/// A NodePort service without endpoints, refused from a pod and from the node.
fn assert_everything_refused(cluster: &mut KubernetesCluster, name: &str) {
    let client = cluster.client(0);
    for to in [cluster.at(name, 80), cluster.at_node(0, name, 80)] {
        for protocol in [Tcp, Udp] {
            assert_refused(&client, to, protocol);
            assert_refused(cluster.host(0), to, protocol);
        }
    }
}

/// A cluster with a NodePort service without endpoints.
fn cluster_with_empty_service(name: &str, publish: fn(&mut Value)) -> KubernetesCluster {
    let mut cluster = KubernetesCluster::new();
    let mut empty = service_of_type("NodePort", name);
    empty["spec"]["ports"] = json!([port("tcp", "TCP", 80, 80), port("udp", "UDP", 80, 80)]);
    publish(&mut empty);
    cluster.create(empty);
    cluster
}

/// should be rejected when no endpoints exist
#[test]
fn should_be_rejected_when_no_endpoints_exist() {
    let mut cluster = cluster_with_empty_service("no-pods", publish_only_ready);
    // Without these the node itself would refuse the node port.
    let number = cluster.node_port("no-pods", 80);
    let _own =
        (cluster.host(0).tcp_server(number).unwrap(), cluster.host(0).udp_server(number).unwrap());
    assert_everything_refused(&mut cluster, "no-pods");
}

/// should be rejected for evicted pods (no endpoints exist)
#[test]
fn should_be_rejected_for_evicted_pods() {
    let mut cluster = cluster_with_empty_service("evicted-pods", publish_not_ready);
    let number = cluster.node_port("evicted-pods", 80);
    let _own =
        (cluster.host(0).tcp_server(number).unwrap(), cluster.host(0).udp_server(number).unwrap());
    cluster.start(Server::new("evicted-pod", "evicted-pods").tcp(80).udp(80).unready());
    let client = cluster.client(0);
    assert_reaches(&client, cluster.at("evicted-pods", 80), Tcp, &["evicted-pod"]);
    cluster.mark("evicted-pod", |pod| pod.failed = true);
    assert_everything_refused(&mut cluster, "evicted-pods");
}
