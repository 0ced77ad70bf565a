//! Session affinity of cluster IPs and node ports: `service.go`. The same of load balancers is in
//! `load_balancer.rs`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sockline_testbed::{DEADLINE, Ns, Protocol::Tcp, wait_until};

use crate::{
    kubernetes_cluster::{KubernetesCluster, service_of_type},
    pods::Server,
    reach::{assert_reaches, dial},
};

/// The suite's `AffinityConfirmCount`.
const CONFIRMATIONS: usize = 15;

fn who(client: &Ns, to: SocketAddr) -> String {
    dial(client, to, Tcp).unwrap()
}

/// Fails unless all connects go to one pod.
#[track_caller]
pub fn assert_affinity(client: &Ns, to: SocketAddr) {
    let first = who(client, to);
    for _ in 1..CONFIRMATIONS {
        assert_eq!(who(client, to), first, "affinity should hold");
    }
}

/// Fails unless connects go to all pods.
#[track_caller]
fn assert_no_affinity(client: &Ns, to: SocketAddr) {
    assert_reaches(client, to, Tcp, &PODS);
}

const PODS: [&str; 3] = ["affinity-0", "affinity-1", "affinity-2"];

/// A cluster with this service, which has affinity, and three pods behind it.
pub fn cluster_with(mut service: Value) -> KubernetesCluster {
    let name = service["metadata"]["name"].as_str().unwrap().to_owned();
    service["spec"]["sessionAffinity"] = "ClientIP".into();
    let mut cluster = KubernetesCluster::new();
    cluster.create(service);
    cluster.start_all(PODS.map(|pod| Server::new(pod, &name).tcp(80)));
    cluster
}

/// Off and on again, as `execAffinityTestForNonLBServiceWithTransition` does it.
pub fn assert_switches(cluster: &mut KubernetesCluster, name: &str, to: SocketAddr) {
    let client = cluster.client(0);
    assert_affinity(&client, to);
    cluster.update(name, |service| service["spec"]["sessionAffinity"] = "None".into());
    assert_no_affinity(&client, to);
    cluster.update(name, |service| service["spec"]["sessionAffinity"] = "ClientIP".into());
    assert_affinity(&client, to);
}

/// The suite's 125 seconds would be long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Sticky while it is used, another pod after a pause.
fn assert_times_out(cluster: &mut KubernetesCluster, to: SocketAddr) {
    let client = cluster.client(0);
    let mut asked = Instant::now();
    let mut previous = who(&client, to);
    for _ in 1..CONFIRMATIONS {
        let since = asked;
        asked = Instant::now();
        let now = who(&client, to);
        // A busy machine may have paused for long enough.
        assert!(now == previous || since.elapsed() >= TIMEOUT, "{previous}, then {now}");
        previous = now;
    }
    // Of three pods, twenty draws that are all the same: once in a billion runs.
    let moved = (0..20).any(|_| {
        let since = Instant::now();
        let over = || (since.elapsed() > TIMEOUT + Duration::from_millis(50)).then_some(());
        wait_until(DEADLINE, "the timeout to pass", over).unwrap();
        who(&client, to) != previous
    });
    assert!(moved, "session is sticky after reaching the timeout");
}

fn with_timeout(mut service: Value) -> Value {
    service["spec"]["sessionAffinityConfig"] =
        json!({"clientIP": {"timeoutSeconds": TIMEOUT.as_secs()}});
    service
}

/// should have session affinity work for service with type clusterIP [LinuxOnly] [Conformance]
#[test]
fn should_have_session_affinity_work_for_service_with_type_cluster_ip() {
    let mut cluster = cluster_with(service_of_type("ClusterIP", "affinity-clusterip"));
    assert_affinity(&cluster.client(0), cluster.at("affinity-clusterip", 80));
}

/// should have session affinity timeout work for service with type clusterIP [LinuxOnly]
#[test]
fn should_have_session_affinity_timeout_work_for_service_with_type_cluster_ip() {
    let service = service_of_type("ClusterIP", "affinity-clusterip-timeout");
    let mut cluster = cluster_with(with_timeout(service));
    let to = cluster.at("affinity-clusterip-timeout", 80);
    assert_times_out(&mut cluster, to);
}

/// should be able to switch session affinity for service with type clusterIP [LinuxOnly]
/// [Conformance]
#[test]
fn should_be_able_to_switch_session_affinity_for_service_with_type_cluster_ip() {
    let name = "affinity-clusterip-transition";
    let mut cluster = cluster_with(service_of_type("ClusterIP", name));
    let to = cluster.at(name, 80);
    assert_switches(&mut cluster, name, to);
}

/// should have session affinity work for NodePort service [LinuxOnly] [Conformance]
#[test]
fn should_have_session_affinity_work_for_node_port_service() {
    let mut cluster = cluster_with(service_of_type("NodePort", "affinity-nodeport"));
    assert_affinity(&cluster.client(0), cluster.at_node(0, "affinity-nodeport", 80));
}

/// should have session affinity timeout work for NodePort service [LinuxOnly]
#[test]
fn should_have_session_affinity_timeout_work_for_node_port_service() {
    let service = service_of_type("NodePort", "affinity-nodeport-timeout");
    let mut cluster = cluster_with(with_timeout(service));
    let to = cluster.at_node(0, "affinity-nodeport-timeout", 80);
    assert_times_out(&mut cluster, to);
}

/// should be able to switch session affinity for NodePort service [LinuxOnly] [Conformance]
#[test]
fn should_be_able_to_switch_session_affinity_for_node_port_service() {
    let name = "affinity-nodeport-transition";
    let mut cluster = cluster_with(service_of_type("NodePort", name));
    let to = cluster.at_node(0, name, 80);
    assert_switches(&mut cluster, name, to);
}
