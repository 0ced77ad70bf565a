//! Load balancers with addresses of their own (`ipMode: VIP`), dialled inside the cluster:
//! `loadbalancer.go`. The suite dials most of them from outside.

use std::net::SocketAddr;

use serde_json::{Value, json};
use sockline_testbed::Protocol::{self, Tcp, Udp};

use crate::{
    affinity::{assert_affinity, assert_switches, cluster_with},
    hammer::Hammer,
    kubernetes_cluster::{KubernetesCluster, port, service, service_of_type},
    pods::Server,
    reach::{assert_not_served, assert_reaches, assert_refused},
};

const VIP: &str = "203.0.113.7";

pub fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), port)
}

/// What the cloud's controller does.
pub fn give_vip(service: &mut Value) {
    service["status"] = json!({"loadBalancer": {"ingress": [{"ip": VIP, "ipMode": "VIP"}]}});
}

fn balanced(name: &str, external_traffic_policy: &str) -> Value {
    let mut service = service_of_type("LoadBalancer", name);
    service["spec"]["externalTrafficPolicy"] = external_traffic_policy.into();
    give_vip(&mut service);
    service
}

/// The life of a service that becomes a NodePort one, a load balancer with other ports, and a
/// cluster IP again.
fn changes_type_and_ports(protocol: Protocol) {
    let name = "mutability-test";
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    let mut mutable = service(name);
    mutable["spec"]["ports"] = json!([port("port", &protocol.to_string(), 80, 80)]);
    cluster.create(mutable);
    let pod = || Server::new("pod1", name).tcp(80).udp(80);
    cluster.start(pod());
    assert_reaches(&client, cluster.at(name, 80), protocol, &["pod1"]);
    cluster.update(name, |service| service["spec"]["type"] = "NodePort".into());
    let node_port = cluster.at_node(0, name, 80);
    assert_reaches(&client, node_port, protocol, &["pod1"]);
    cluster.update(name, |service| {
        service["spec"]["type"] = "LoadBalancer".into();
        give_vip(service);
    });
    assert_eq!(cluster.at_node(0, name, 80), node_port);
    assert_reaches(&client, vip(80), protocol, &["pod1"]);
    // Another node port.
    cluster.update(name, |service| service["spec"]["ports"][0]["nodePort"] = 31_000.into());
    let (old_node_port, node_port) = (node_port, cluster.at_node(0, name, 80));
    assert_eq!(node_port.port(), 31_000);
    assert_reaches(&client, node_port, protocol, &["pod1"]);
    assert_reaches(&client, vip(80), protocol, &["pod1"]);
    let host = cluster.host(0);
    let own = (
        host.tcp_server(old_node_port.port()).unwrap(),
        host.udp_server(old_node_port.port()).unwrap(),
    );
    assert_reaches(&client, old_node_port, protocol, &["node"]);
    drop(own);
    // Another port.
    let old = cluster.at(name, 80);
    cluster.update(name, |service| service["spec"]["ports"][0]["port"] = 81.into());
    for to in [vip(81), cluster.at(name, 81), cluster.at_node(0, name, 81)] {
        assert_reaches(&client, to, protocol, &["pod1"]);
    }
    assert_not_served(&client, vip(80), protocol);
    assert_not_served(&client, old, protocol);
    // No pods, and one again.
    cluster.stop("pod1");
    assert_refused(&client, vip(81), protocol);
    cluster.start(pod());
    assert_reaches(&client, vip(81), protocol, &["pod1"]);
    cluster.update(name, |service| service["spec"]["type"] = "ClusterIP".into());
    assert_reaches(&client, cluster.at(name, 81), protocol, &["pod1"]);
    assert_not_served(&client, vip(81), protocol);
}

/// should be able to change the type and ports of a TCP service
#[test]
fn should_be_able_to_change_the_type_and_ports_of_a_tcp_service() {
    changes_type_and_ports(Tcp);
}

/// should be able to change the type and ports of a UDP service
#[test]
fn should_be_able_to_change_the_type_and_ports_of_a_udp_service() {
    changes_type_and_ports(Udp);
}

/// should be able to create LoadBalancer Service without NodePort and change it
#[test]
fn should_be_able_to_create_load_balancer_service_without_node_port_and_change_it() {
    let name = "reallocate-nodeport-test";
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    cluster.create(service(name));
    cluster.start(Server::new("pod1", name).tcp(80));
    cluster.update(name, |service| {
        service["spec"]["type"] = "LoadBalancer".into();
        service["spec"]["allocateLoadBalancerNodePorts"] = false.into();
        give_vip(service);
    });
    assert!(cluster.service(name)["spec"]["ports"][0]["nodePort"].is_null());
    assert_reaches(&client, vip(80), Tcp, &["pod1"]);
    cluster.update(name, |service| {
        service["spec"]["allocateLoadBalancerNodePorts"] = true.into();
    });
    for to in [vip(80), cluster.at_node(0, name, 80)] {
        assert_reaches(&client, to, Tcp, &["pod1"]);
    }
}

/// should have session affinity work for LoadBalancer service with Local traffic policy
#[test]
fn should_have_session_affinity_work_for_load_balancer_service_with_local_traffic_policy() {
    let mut cluster = cluster_with(balanced("affinity-lb-esipp", "Local"));
    assert_affinity(&cluster.client(0), vip(80));
}

/// should be able to switch session affinity for LoadBalancer service with Local traffic policy
#[test]
fn should_be_able_to_switch_session_affinity_for_load_balancer_with_local_traffic_policy() {
    let mut cluster = cluster_with(balanced("affinity-lb-esipp-transition", "Local"));
    assert_switches(&mut cluster, "affinity-lb-esipp-transition", vip(80));
}

/// should have session affinity work for LoadBalancer service with Cluster traffic policy
#[test]
fn should_have_session_affinity_work_for_load_balancer_service_with_cluster_traffic_policy() {
    let mut cluster = cluster_with(balanced("affinity-lb", "Cluster"));
    assert_affinity(&cluster.client(0), vip(80));
}

/// should be able to switch session affinity for LoadBalancer service with Cluster traffic policy
#[test]
fn should_be_able_to_switch_session_affinity_for_load_balancer_with_cluster_traffic_policy() {
    let mut cluster = cluster_with(balanced("affinity-lb-transition", "Cluster"));
    assert_switches(&mut cluster, "affinity-lb-transition", vip(80));
}

/// Every pod of a DaemonSet is replaced, twice, while a client dials all the time.
fn rolls_without_disruption(external_traffic_policy: &str) {
    let name = "test-lb-rolling-update";
    let mut cluster = KubernetesCluster::of_two_nodes();
    let client = cluster.client(0);
    cluster.create(balanced(name, external_traffic_policy));
    let pod =
        |node: usize, version| Server::new(&format!("pod-{node}-{version}"), name).on(node).tcp(80);
    cluster.start_all([0, 1].map(|node| pod(node, 0)));
    let hammer = Hammer::start(&client, vec![vip(80)]);
    for version in 1..=2 {
        for node in [0, 1] {
            let old = format!("pod-{node}-{}", version - 1);
            cluster.terminate(&old);
            // It serves those who came before it was told to end.
            hammer.wait_for(5);
            cluster.stop(&old);
            cluster.start(pod(node, version).unready());
            cluster.mark(&format!("pod-{node}-{version}"), |pod| pod.ready = true);
        }
    }
    hammer.wait_for(20);
    hammer.assert_nothing_failed();
}

/// should not have connectivity disruption during rolling update with externalTrafficPolicy=Cluster
#[test]
fn should_not_have_connectivity_disruption_with_external_traffic_policy_cluster() {
    rolls_without_disruption("Cluster");
}

/// should not have connectivity disruption during rolling update with externalTrafficPolicy=Local
#[test]
fn should_not_have_connectivity_disruption_with_external_traffic_policy_local() {
    rolls_without_disruption("Local");
}

/// should target all nodes with endpoints
#[test]
fn should_target_all_nodes_with_endpoints() {
    let mut cluster = KubernetesCluster::of_two_nodes();
    let client = cluster.client(0);
    cluster.create(balanced("external-local-update", "Local"));
    let pods = [("pod-0", 0), ("pod-1", 1)];
    let pods = pods.map(|(pod, node)| Server::new(pod, "external-local-update").on(node).tcp(80));
    cluster.start_all(pods);
    assert_reaches(&client, vip(80), Tcp, &["pod-0", "pod-1"]);
}

/// should work from pods
#[test]
fn should_work_from_pods() {
    let mut cluster = KubernetesCluster::of_two_nodes();
    let client = cluster.client(0);
    cluster.create(balanced("external-local-pods", "Local"));
    cluster.start(Server::new("pod1", "external-local-pods").on(1).tcp(80));
    assert_reaches(&client, vip(80), Tcp, &["pod1"]);
    let seen = cluster.server("pod1").tcp_peers();
    assert_eq!(seen.last(), Some(&client.addresses()[0]), "the source address is preserved");
}
