//! Traffic policies and what is used when no endpoint is ready: `service.go`.
//!
//! The server is on node 0; a client on each node asks. NodePorts are asked for at the client's own
//! node, since another node's addresses are left as they are.

use serde_json::Value;
use sockline_testbed::{Ns, Pod, Protocol::Tcp};

use crate::{
    pods::Server,
    reach::{assert_reaches, assert_refused},
    stage::{Stage, port, service, service_of_type},
};

const INTERNAL: &str = "svc-itp";
const TERMINATING: &str = "svc-proxy-terminating";

fn local(mut service: Value, policy: &str) -> Value {
    service["spec"][policy] = "Local".into();
    service
}

/// A service with `internalTrafficPolicy: Local` and its one pod on node 0.
fn internal_local(pod: Server) -> Stage {
    let mut stage = Stage::of_two_nodes();
    stage.create(local(service(INTERNAL), "internalTrafficPolicy"));
    stage.start(pod);
    stage
}

/// should respect internalTrafficPolicy=Local Pod to Pod
#[test]
fn should_respect_internal_traffic_policy_local_pod_to_pod() {
    let mut stage = internal_local(Server::new("echo-hostname-0", INTERNAL).tcp(80));
    let to = stage.at(INTERNAL, 80);
    assert_reaches(&stage.client(0), to, Tcp, &["echo-hostname-0"]);
    assert_refused(&stage.client(1), to, Tcp);
}

/// should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod
#[test]
fn should_respect_internal_traffic_policy_local_host_network_pod_to_pod() {
    let stage = internal_local(Server::new("echo-hostname-0", INTERNAL).tcp(80));
    let to = stage.at(INTERNAL, 80);
    assert_reaches(stage.host(0), to, Tcp, &["echo-hostname-0"]);
    assert_refused(stage.host(1), to, Tcp);
}

/// should respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true)
#[test]
fn should_respect_internal_traffic_policy_local_pod_and_node_to_host_network_pod() {
    let pod = Server::new("echo-hostname-0", INTERNAL).host_network();
    let mut stage = internal_local(pod.tcp(10_180));
    stage.update(INTERNAL, |service| {
        service["spec"]["ports"] = vec![port("http", "TCP", 80, 10_180)].into();
    });
    let to = stage.at(INTERNAL, 80);
    let clients = [0, 1].map(|node| stage.client(node));
    // A server in the node's network namespace answers with the node's name.
    assert_reaches(&clients[0], to, Tcp, &["node"]);
    assert_refused(&clients[1], to, Tcp);
    assert_reaches(stage.host(0), to, Tcp, &["node"]);
    assert_refused(stage.host(1), to, Tcp);
}

/// A service whose only pod, on node 0, has started to terminate, and a client on each node.
fn terminating(service: Value) -> (Stage, [Pod; 2]) {
    let mut stage = Stage::of_two_nodes();
    stage.create(service);
    stage.start(Server::new("echo-hostname-0", TERMINATING).tcp(80));
    stage.terminate("echo-hostname-0");
    let clients = [0, 1].map(|node| stage.client(node));
    (stage, clients)
}

#[track_caller]
fn assert_terminating_pod_serves(client: &Ns, to: std::net::SocketAddr) {
    assert_reaches(client, to, Tcp, &["echo-hostname-0"]);
}

/// should fallback to terminating endpoints when there are no ready endpoints with
/// internalTrafficPolicy=Cluster
#[test]
fn should_fallback_to_terminating_endpoints_with_internal_traffic_policy_cluster() {
    let (mut stage, clients) = terminating(service(TERMINATING));
    let to = stage.at(TERMINATING, 80);
    assert_terminating_pod_serves(&clients[0], to);
    assert_terminating_pod_serves(&clients[1], to);
    // Not while there is a ready one.
    stage.start(Server::new("ready", TERMINATING).on(1).tcp(80));
    assert_reaches(&clients[0], to, Tcp, &["ready"]);
}

/// should fallback to local terminating endpoints when there are no ready endpoints with
/// internalTrafficPolicy=Local
#[test]
fn should_fallback_to_local_terminating_endpoints_with_internal_traffic_policy_local() {
    let (mut stage, clients) = terminating(local(service(TERMINATING), "internalTrafficPolicy"));
    let to = stage.at(TERMINATING, 80);
    assert_terminating_pod_serves(&clients[0], to);
    assert_refused(&clients[1], to, Tcp);
    // A ready one on another node does not count.
    stage.start(Server::new("ready", TERMINATING).on(1).tcp(80));
    assert_terminating_pod_serves(&clients[0], to);
    assert_reaches(&clients[1], to, Tcp, &["ready"]);
}

/// should fallback to terminating endpoints when there are no ready endpoints with
/// externallTrafficPolicy=Cluster
#[test]
fn should_fallback_to_terminating_endpoints_with_external_traffic_policy_cluster() {
    let (stage, clients) = terminating(service_of_type("NodePort", TERMINATING));
    for node in [0, 1] {
        assert_terminating_pod_serves(&clients[node], stage.at_node(node, TERMINATING, 80));
    }
}

/// should fallback to local terminating endpoints when there are no ready endpoints with
/// externalTrafficPolicy=Local
#[test]
fn should_fallback_to_local_terminating_endpoints_with_external_traffic_policy_local() {
    let service = local(service_of_type("NodePort", TERMINATING), "externalTrafficPolicy");
    let (stage, clients) = terminating(service);
    assert_terminating_pod_serves(&clients[0], stage.at_node(0, TERMINATING, 80));
    // From the node itself it is not external, says kube-proxy, and takes any endpoint.
    assert_terminating_pod_serves(&clients[1], stage.at_node(1, TERMINATING, 80));
    // From another node it would be; nothing there answers without kube-proxy.
    assert_refused(&clients[0], stage.at_node(1, TERMINATING, 80), Tcp);
}
