//! Endpoints near the client: `traffic_distribution.go`.

use std::collections::BTreeMap;

use sockline_testbed::Protocol::Tcp;

use crate::{
    kubernetes_cluster::{KubernetesCluster, service},
    pods::Server,
    reach::assert_reaches,
};

const NAME: &str = "traffic-dist-test-service";

/// A cluster with a service of this distribution and a server on each of some nodes.
fn cluster(zones: &[&str], distribution: &str, servers: &[usize]) -> KubernetesCluster {
    let mut cluster = KubernetesCluster::in_zones(zones);
    let mut service = service(NAME);
    service["spec"]["trafficDistribution"] = distribution.into();
    cluster.create(service);
    cluster.start_all(servers.iter().map(|node| server(*node)));
    cluster
}

fn server(node: usize) -> Server {
    Server::new(&format!("server-{node}"), NAME).on(node).tcp(80)
}

/// Fails unless a client on each of these nodes reaches the servers on those nodes, and no other.
#[track_caller]
fn assert_distributed(cluster: &mut KubernetesCluster, expected: &BTreeMap<usize, Vec<usize>>) {
    for (node, servers) in expected {
        let servers: Vec<String> = servers.iter().map(|node| format!("server-{node}")).collect();
        let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
        let client = cluster.client(*node);
        assert_reaches(&client, cluster.at(NAME, 80), Tcp, &servers);
    }
}

/// Three zones, servers in two of them: the client in the third takes both.
fn stays_in_the_zone(distribution: &str) {
    let mut cluster = cluster(&["zone-a", "zone-b", "zone-c"], distribution, &[0, 1]);
    let expected = [(0, vec![0]), (1, vec![1]), (2, vec![0, 1])];
    assert_distributed(&mut cluster, &expected.into());
}

const FIVE_NODES: [&str; 5] = ["zone-a", "zone-a", "zone-b", "zone-b", "zone-c"];

/// Nodes of one zone share their servers.
fn shares_the_zone(distribution: &str) {
    let mut cluster = cluster(&FIVE_NODES, distribution, &[0, 1, 3]);
    let expected = [(0, vec![0, 1]), (1, vec![0, 1]), (2, vec![3]), (4, vec![0, 1, 3])];
    assert_distributed(&mut cluster, &expected.into());
}

/// should route traffic to an endpoint in the same zone when using PreferClose
#[test]
fn should_route_traffic_to_an_endpoint_in_the_same_zone_when_using_prefer_close() {
    stays_in_the_zone("PreferClose");
}

/// should route traffic correctly between pods on multiple nodes when using PreferClose
#[test]
fn should_route_traffic_between_pods_on_multiple_nodes_when_using_prefer_close() {
    shares_the_zone("PreferClose");
}

/// should route traffic to an endpoint in the same zone when using PreferSameZone
#[test]
fn should_route_traffic_to_an_endpoint_in_the_same_zone_when_using_prefer_same_zone() {
    stays_in_the_zone("PreferSameZone");
}

/// should route traffic correctly between pods on multiple nodes when using PreferSameZone
#[test]
fn should_route_traffic_between_pods_on_multiple_nodes_when_using_prefer_same_zone() {
    shares_the_zone("PreferSameZone");
}

/// should route traffic to an endpoint on the same node or fall back to same zone when using
/// PreferSameNode
#[test]
fn should_route_traffic_to_the_same_node_or_zone_when_using_prefer_same_node() {
    let mut cluster = cluster(&FIVE_NODES, "PreferSameNode", &[0, 1, 3]);
    let expected = [(0, vec![0]), (1, vec![1]), (2, vec![3]), (4, vec![0, 1, 3])];
    assert_distributed(&mut cluster, &expected.into());
}

/// should route traffic to an endpoint on the same node when using PreferSameNode and fall back
/// when the endpoint becomes unavailable
#[test]
fn should_route_traffic_to_the_same_node_and_fall_back_when_the_endpoint_becomes_unavailable() {
    let mut cluster = cluster(&["zone-a", "zone-a"], "PreferSameNode", &[0, 1]);
    let near = [(0, vec![0]), (1, vec![1])].into();
    assert_distributed(&mut cluster, &near);
    cluster.stop("server-0");
    assert_distributed(&mut cluster, &[(0, vec![1]), (1, vec![1])].into());
    cluster.start(server(0));
    assert_distributed(&mut cluster, &near);
}
