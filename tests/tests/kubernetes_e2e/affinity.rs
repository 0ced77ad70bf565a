//! Session affinity of cluster IPs and node ports: `service.go`. The same of load balancers is in
//! `load_balancer.rs`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sockline_testbed::{Ns, Protocol::Tcp, wait_until};

use crate::{
    pods::Server,
    reach::{assert_reaches, dial},
    stage::{Stage, service_of_type},
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
pub fn stage_with(mut service: Value) -> Stage {
    let name = service["metadata"]["name"].as_str().unwrap().to_owned();
    service["spec"]["sessionAffinity"] = "ClientIP".into();
    let mut stage = Stage::new();
    stage.create(service);
    stage.start_all(PODS.map(|pod| Server::new(pod, &name).tcp(80)));
    stage
}

/// Off and on again, as `execAffinityTestForNonLBServiceWithTransition` does it.
pub fn assert_switches(stage: &mut Stage, name: &str, to: SocketAddr) {
    let client = stage.client(0);
    assert_affinity(&client, to);
    stage.update(name, |service| service["spec"]["sessionAffinity"] = "None".into());
    assert_no_affinity(&client, to);
    stage.update(name, |service| service["spec"]["sessionAffinity"] = "ClientIP".into());
    assert_affinity(&client, to);
}

/// The suite's 125 seconds would be long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Sticky while it is used, another pod after a pause.
fn assert_times_out(stage: &mut Stage, to: SocketAddr) {
    let client = stage.client(0);
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
        wait_until(TIMEOUT * 2, "the timeout to pass", over).unwrap();
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
    let mut stage = stage_with(service_of_type("ClusterIP", "affinity-clusterip"));
    assert_affinity(&stage.client(0), stage.at("affinity-clusterip", 80));
}

/// should have session affinity timeout work for service with type clusterIP [LinuxOnly]
#[test]
fn should_have_session_affinity_timeout_work_for_service_with_type_cluster_ip() {
    let service = service_of_type("ClusterIP", "affinity-clusterip-timeout");
    let mut stage = stage_with(with_timeout(service));
    let to = stage.at("affinity-clusterip-timeout", 80);
    assert_times_out(&mut stage, to);
}

/// should be able to switch session affinity for service with type clusterIP [LinuxOnly]
/// [Conformance]
#[test]
fn should_be_able_to_switch_session_affinity_for_service_with_type_cluster_ip() {
    let name = "affinity-clusterip-transition";
    let mut stage = stage_with(service_of_type("ClusterIP", name));
    let to = stage.at(name, 80);
    assert_switches(&mut stage, name, to);
}

/// should have session affinity work for NodePort service [LinuxOnly] [Conformance]
#[test]
fn should_have_session_affinity_work_for_node_port_service() {
    let mut stage = stage_with(service_of_type("NodePort", "affinity-nodeport"));
    assert_affinity(&stage.client(0), stage.at_node(0, "affinity-nodeport", 80));
}

/// should have session affinity timeout work for NodePort service [LinuxOnly]
#[test]
fn should_have_session_affinity_timeout_work_for_node_port_service() {
    let service = service_of_type("NodePort", "affinity-nodeport-timeout");
    let mut stage = stage_with(with_timeout(service));
    let to = stage.at_node(0, "affinity-nodeport-timeout", 80);
    assert_times_out(&mut stage, to);
}

/// should be able to switch session affinity for NodePort service [LinuxOnly] [Conformance]
#[test]
fn should_be_able_to_switch_session_affinity_for_node_port_service() {
    let name = "affinity-nodeport-transition";
    let mut stage = stage_with(service_of_type("NodePort", name));
    let to = stage.at_node(0, name, 80);
    assert_switches(&mut stage, name, to);
}
