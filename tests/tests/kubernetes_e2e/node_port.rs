//! NodePorts, at the addresses of the client's own node: `service.go`.

use sockline_testbed::Protocol::Tcp;

use crate::{
    pods::Server,
    reach::assert_reaches,
    stage::{Stage, service_of_type},
};

/// should be able to create a functioning NodePort service [Conformance]
#[test]
fn should_be_able_to_create_a_functioning_node_port_service() {
    let mut stage = Stage::of_two_nodes();
    stage.create(service_of_type("NodePort", "nodeport-test"));
    let pods = [("pod-0", 0), ("pod-1", 1)];
    stage.start_all(pods.map(|(name, node)| Server::new(name, "nodeport-test").on(node).tcp(80)));
    for node in [0, 1] {
        let client = stage.client(node);
        let ways = [stage.at("nodeport-test", 80), stage.at_node(node, "nodeport-test", 80)];
        for to in ways {
            assert_reaches(&client, to, Tcp, &["pod-0", "pod-1"]);
            assert_reaches(stage.host(node), to, Tcp, &["pod-0", "pod-1"]);
        }
    }
}

/// should release NodePorts on delete
#[test]
fn should_release_node_ports_on_delete() {
    let mut stage = Stage::new();
    let client = stage.client(0);
    let mut service = service_of_type("NodePort", "nodeport-reuse");
    stage.create(service.clone());
    stage.start(Server::new("pod1", "nodeport-reuse").tcp(80));
    let to = stage.at_node(0, "nodeport-reuse", 80);
    assert_reaches(&client, to, Tcp, &["pod1"]);
    stage.delete("nodeport-reuse");
    // Nobody listens, and nothing is in the way of who wants to.
    let own = stage.host(0).tcp_server(to.port()).unwrap();
    assert_reaches(&client, to, Tcp, &["node"]);
    drop(own);
    service["spec"]["ports"][0]["nodePort"] = to.port().into();
    stage.create(service);
    assert_reaches(&client, to, Tcp, &["pod1"]);
}
