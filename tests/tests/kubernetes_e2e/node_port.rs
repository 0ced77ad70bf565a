//! NodePorts, at the addresses of the client's own node: `service.go`.

use sockline_testbed::Protocol::Tcp;

use crate::{
    kubernetes_cluster::{KubernetesCluster, service_of_type},
    pods::Server,
    reach::assert_reaches,
};

/// should be able to create a functioning NodePort service [Conformance]
#[test]
fn should_be_able_to_create_a_functioning_node_port_service() {
    let mut cluster = KubernetesCluster::of_two_nodes();
    cluster.create(service_of_type("NodePort", "nodeport-test"));
    let pods = [("pod-0", 0), ("pod-1", 1)];
    cluster.start_all(pods.map(|(name, node)| Server::new(name, "nodeport-test").on(node).tcp(80)));
    for node in [0, 1] {
        let client = cluster.client(node);
        let ways = [cluster.at("nodeport-test", 80), cluster.at_node(node, "nodeport-test", 80)];
        for to in ways {
            assert_reaches(&client, to, Tcp, &["pod-0", "pod-1"]);
            assert_reaches(cluster.host(node), to, Tcp, &["pod-0", "pod-1"]);
        }
    }
}

/// should release NodePorts on delete
#[test]
fn should_release_node_ports_on_delete() {
    let mut cluster = KubernetesCluster::new();
    let client = cluster.client(0);
    let mut service = service_of_type("NodePort", "nodeport-reuse");
    cluster.create(service.clone());
    cluster.start(Server::new("pod1", "nodeport-reuse").tcp(80));
    let to = cluster.at_node(0, "nodeport-reuse", 80);
    assert_reaches(&client, to, Tcp, &["pod1"]);
    cluster.delete("nodeport-reuse");
    // Nobody listens, and nothing is in the way of who wants to.
    let own = cluster.host(0).tcp_server(to.port()).unwrap();
    assert_reaches(&client, to, Tcp, &["node"]);
    drop(own);
    service["spec"]["ports"][0]["nodePort"] = to.port().into();
    cluster.create(service);
    assert_reaches(&client, to, Tcp, &["pod1"]);
}
