//! Traffic policies and what is used when no endpoint is ready: `service.go`.
//!
//! The server is on node 0; a client on each node asks. NodePorts are asked for at the client's own
//! node, since another node's addresses are left as they are.

use serde_json::Value;
use sockline_testbed::{Ns, Pod, Protocol::Tcp};

use crate::{
    kubernetes_cluster::{KubernetesCluster, port, service, service_of_type},
    pods::Server,
    reach::{assert_reaches, assert_refused},
};

const INTERNAL: &str = "svc-itp";
const TERMINATING: &str = "svc-proxy-terminating";

fn local(mut service: Value, policy: &str) -> Value {
    service["spec"][policy] = "Local".into();
    service
}

/// A service with `internalTrafficPolicy: Local` and its one pod on node 0.
fn internal_local(pod: Server) -> KubernetesCluster {
    let mut cluster = KubernetesCluster::of_two_nodes();
    cluster.create(local(service(INTERNAL), "internalTrafficPolicy"));
    cluster.start(pod);
    cluster
}

/// should respect internalTrafficPolicy=Local Pod to Pod
#[test]
fn should_respect_internal_traffic_policy_local_pod_to_pod() {
    let mut cluster = internal_local(Server::new("echo-hostname-0", INTERNAL).tcp(80));
    let to = cluster.at(INTERNAL, 80);
    assert_reaches(&cluster.client(0), to, Tcp, &["echo-hostname-0"]);
    assert_refused(&cluster.client(1), to, Tcp);
}

/// should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod
#[test]
fn should_respect_internal_traffic_policy_local_host_network_pod_to_pod() {
    let cluster = internal_local(Server::new("echo-hostname-0", INTERNAL).tcp(80));
    let to = cluster.at(INTERNAL, 80);
    assert_reaches(cluster.host(0), to, Tcp, &["echo-hostname-0"]);
    assert_refused(cluster.host(1), to, Tcp);
}

/// should respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true)
#[test]
fn should_respect_internal_traffic_policy_local_pod_and_node_to_host_network_pod() {
    let pod = Server::new("echo-hostname-0", INTERNAL).host_network();
    let mut cluster = internal_local(pod.tcp(10_180));
    cluster.update(INTERNAL, |service| {
        service["spec"]["ports"] = vec![port("http", "TCP", 80, 10_180)].into();
    });
    let to = cluster.at(INTERNAL, 80);
    let clients = [0, 1].map(|node| cluster.client(node));
    // A server in the node's network namespace answers with the node's name.
    assert_reaches(&clients[0], to, Tcp, &["node"]);
    assert_refused(&clients[1], to, Tcp);
    assert_reaches(cluster.host(0), to, Tcp, &["node"]);
    assert_refused(cluster.host(1), to, Tcp);
}

/// A service whose only pod, on node 0, has started to terminate, and a client on each node.
fn terminating(service: Value) -> (KubernetesCluster, [Pod; 2]) {
    let mut cluster = KubernetesCluster::of_two_nodes();
    cluster.create(service);
    cluster.start(Server::new("echo-hostname-0", TERMINATING).tcp(80));
    cluster.terminate("echo-hostname-0");
    let clients = [0, 1].map(|node| cluster.client(node));
    (cluster, clients)
}

#[track_caller]
fn assert_terminating_pod_serves(client: &Ns, to: std::net::SocketAddr) {
    assert_reaches(client, to, Tcp, &["echo-hostname-0"]);
}

/// should fallback to terminating endpoints when there are no ready endpoints with
/// internalTrafficPolicy=Cluster
#[test]
fn should_fallback_to_terminating_endpoints_with_internal_traffic_policy_cluster() {
    let (mut cluster, clients) = terminating(service(TERMINATING));
    let to = cluster.at(TERMINATING, 80);
    assert_terminating_pod_serves(&clients[0], to);
    assert_terminating_pod_serves(&clients[1], to);
    // Not while there is a ready one.
    cluster.start(Server::new("ready", TERMINATING).on(1).tcp(80));
    assert_reaches(&clients[0], to, Tcp, &["ready"]);
}

/// should fallback to local terminating endpoints when there are no ready endpoints with
/// internalTrafficPolicy=Local
#[test]
fn should_fallback_to_local_terminating_endpoints_with_internal_traffic_policy_local() {
    let (mut cluster, clients) = terminating(local(service(TERMINATING), "internalTrafficPolicy"));
    let to = cluster.at(TERMINATING, 80);
    assert_terminating_pod_serves(&clients[0], to);
    assert_refused(&clients[1], to, Tcp);
    // A ready one on another node does not count.
    cluster.start(Server::new("ready", TERMINATING).on(1).tcp(80));
    assert_terminating_pod_serves(&clients[0], to);
    assert_reaches(&clients[1], to, Tcp, &["ready"]);
}

/// should fallback to terminating endpoints when there are no ready endpoints with
/// externallTrafficPolicy=Cluster
#[test]
fn should_fallback_to_terminating_endpoints_with_external_traffic_policy_cluster() {
    let (cluster, clients) = terminating(service_of_type("NodePort", TERMINATING));
    for node in [0, 1] {
        assert_terminating_pod_serves(&clients[node], cluster.at_node(node, TERMINATING, 80));
    }
}

/// should fallback to local terminating endpoints when there are no ready endpoints with
/// externalTrafficPolicy=Local
#[test]
fn should_fallback_to_local_terminating_endpoints_with_external_traffic_policy_local() {
    let service = local(service_of_type("NodePort", TERMINATING), "externalTrafficPolicy");
    let (cluster, clients) = terminating(service);
    assert_terminating_pod_serves(&clients[0], cluster.at_node(0, TERMINATING, 80));
    // From the node itself it is not external, says kube-proxy, and takes any endpoint.
    assert_terminating_pod_serves(&clients[1], cluster.at_node(1, TERMINATING, 80));
    // From another node it would be; nothing there answers without kube-proxy.
    assert_refused(&clients[0], cluster.at_node(1, TERMINATING, 80), Tcp);
}
