//! UDP servers that come and go while a client keeps sending: `conntrack.go`, and the same of load
//! balancers in `loadbalancer.go`.
//!
//! The client is on node 0, the servers are on node 1 where nothing else is said.

use std::net::SocketAddr;

use serde_json::{Value, json};
use sockline_testbed::Ns;

use crate::{
    kubernetes_cluster::{KubernetesCluster, port, service_of_type},
    load_balancer::{give_vip, vip},
    pods::Server,
    prober::Prober,
};

const NAME: &str = "svc-udp";
const SERVERS: [&str; 3] = ["pod-server-1", "pod-server-2", "pod-server-3"];

fn udp(kind: &str) -> Value {
    let mut service = service_of_type(kind, NAME);
    service["spec"]["ports"] = json!([port("udp", "UDP", 80, 80)]);
    service
}

fn server(number: usize, node: usize) -> Server {
    Server::new(SERVERS[number], NAME).on(node).udp(80)
}

/// The client sends before there is a server, and hears of the second one after the first has gone
/// without a word.
fn cycles(mut cluster: KubernetesCluster, client: &Ns, to: SocketAddr, nodes: [usize; 2]) {
    let prober = Prober::start(client, to);
    cluster.start(server(0, nodes[0]));
    prober.wait_for(SERVERS[0]);
    cluster.start(server(1, nodes[1]));
    cluster.crash(SERVERS[0]);
    prober.wait_for(SERVERS[1]);
}

fn cluster_with(service: Value) -> KubernetesCluster {
    let mut cluster = KubernetesCluster::of_two_nodes();
    cluster.create(service);
    cluster
}

/// should be able to preserve UDP traffic when server pod cycles for a NodePort service
#[test]
fn should_preserve_udp_traffic_when_server_pod_cycles_for_a_node_port_service() {
    let mut cluster = cluster_with(udp("NodePort"));
    let (client, to) = (cluster.client(0), cluster.at_node(0, NAME, 80));
    cycles(cluster, &client, to, [1, 1]);
}

/// should be able to preserve UDP traffic when server pod cycles for a ClusterIP service
#[test]
fn should_preserve_udp_traffic_when_server_pod_cycles_for_a_cluster_ip_service() {
    let mut cluster = cluster_with(udp("ClusterIP"));
    let (client, to) = (cluster.client(0), cluster.at(NAME, 80));
    cycles(cluster, &client, to, [1, 1]);
}

/// should be able to preserve UDP traffic when server pod cycles for a ClusterIP service with
/// InternalTrafficPolicy set to Local
#[test]
fn should_preserve_udp_traffic_when_server_pod_cycles_with_internal_traffic_policy_local() {
    let mut service = udp("ClusterIP");
    service["spec"]["internalTrafficPolicy"] = "Local".into();
    let mut cluster = cluster_with(service);
    let client = cluster.client(0);
    let prober = Prober::start(&client, cluster.at(NAME, 80));
    cluster.start(server(0, 0));
    prober.wait_for(SERVERS[0]);
    cluster.start(server(1, 1));
    cluster.crash(SERVERS[0]);
    cluster.start(server(2, 0));
    prober.wait_for(SERVERS[2]);
    assert!(!prober.seen().contains(SERVERS[1]), "it is on another node");
    assert_eq!(cluster.server(SERVERS[1]).udp_hits(), 0);
}

/// should be able to preserve UDP traffic when server pod cycles for a ClusterIP service and client
/// is hostNetwork
#[test]
fn should_preserve_udp_traffic_when_server_pod_cycles_and_client_is_host_network() {
    let mut cluster = cluster_with(udp("ClusterIP"));
    let prober = Prober::start(cluster.host(0), cluster.at(NAME, 80));
    cluster.start(server(0, 1));
    prober.wait_for(SERVERS[0]);
    cluster.start(server(1, 1));
    cluster.crash(SERVERS[0]);
    prober.wait_for(SERVERS[1]);
}

/// should be able to preserve UDP traffic when initial unready endpoints get ready
#[test]
fn should_preserve_udp_traffic_when_initial_unready_endpoints_get_ready() {
    let mut cluster = cluster_with(udp("ClusterIP"));
    let client = cluster.client(0);
    let prober = Prober::start(&client, cluster.at(NAME, 80));
    cluster.start(server(0, 1).unready());
    assert_eq!(cluster.server(SERVERS[0]).udp_hits(), 0, "it is not ready");
    cluster.mark(SERVERS[0], |pod| pod.ready = true);
    prober.wait_for(SERVERS[0]);
}

fn balanced() -> Value {
    let mut service = udp("LoadBalancer");
    give_vip(&mut service);
    service
}

/// should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on
/// different nodes
#[test]
fn should_preserve_udp_traffic_when_server_pod_cycles_for_a_load_balancer_on_different_nodes() {
    let mut cluster = cluster_with(balanced());
    let client = cluster.client(0);
    cycles(cluster, &client, vip(80), [0, 1]);
}

/// should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on the
/// same nodes
#[test]
fn should_preserve_udp_traffic_when_server_pod_cycles_for_a_load_balancer_on_the_same_nodes() {
    let mut cluster = cluster_with(balanced());
    let client = cluster.client(0);
    cycles(cluster, &client, vip(80), [1, 1]);
}
