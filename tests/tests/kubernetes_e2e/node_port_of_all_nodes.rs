//! NodePorts at the addresses of every node, dialled from every node, without kube-proxy: `service.go`,
//! `loadbalancer.go`. Nothing on a node answers for another's client but its agent.

use serde_json::Value;
use sockline_testbed::{
    Ns, Pod,
    Protocol::{Tcp, Udp},
    UdpClient,
};

use crate::{
    affinity::assert_affinity,
    pods::Server,
    reach::{assert_reaches, assert_refused, dial},
    stage::{Stage, port, service_of_type},
};

const NAME: &str = "nodeport-test";

fn node_port() -> Value {
    service_of_type("NodePort", NAME)
}

fn local() -> Value {
    let mut service = node_port();
    service["spec"]["externalTrafficPolicy"] = "Local".into();
    service
}

/// This service with pods on these nodes, and a client on each node.
fn stage(service: Value, pods: &[(&str, usize)]) -> (Stage, [Pod; 2]) {
    let mut stage = Stage::without_kube_proxy();
    stage.create(service);
    stage.start_all(pods.iter().map(|(name, node)| Server::new(name, NAME).on(*node).tcp(80)));
    let clients = [0, 1].map(|node| stage.client(node));
    (stage, clients)
}

/// Each node with both of its addresses, dialled from the pod and the host of each node.
fn everywhere(stage: &Stage, clients: &[Pod; 2], mut check: impl FnMut(&Ns, usize, usize)) {
    for (from, client) in clients.iter().enumerate() {
        for to in [0, 1] {
            check(client, from, to);
            check(stage.host(from), from, to);
        }
    }
}

/// should be able to create a functioning NodePort service, dialled at every node
#[test]
fn should_be_able_to_create_a_functioning_node_port_service_at_every_node() {
    let mut service = node_port();
    service["spec"]["ipFamilies"] = ["IPv4", "IPv6"].as_slice().into();
    let (stage, clients) = stage(service, &[("pod-0", 0), ("pod-1", 1)]);
    everywhere(&stage, &clients, |client, _, to| {
        for at in stage.at_each_address(to, NAME, 80) {
            assert_reaches(client, at, Tcp, &["pod-0", "pod-1"]);
        }
    });
    // One entry for the port in each family, at whatever number of nodes.
    let metrics = stage.cluster(0).metrics().unwrap();
    let addresses = metrics.sum("sockline_frontends", &[]);
    assert_eq!(addresses, f64::from(2 * (1 + 2 + 1)), "cluster IP, node and loopback, others");
}

/// should have session affinity work for NodePort service, dialled at every node
#[test]
fn should_have_session_affinity_work_at_every_node() {
    let mut service = node_port();
    service["spec"]["sessionAffinity"] = "ClientIP".into();
    let (stage, clients) = stage(service, &[("pod-0", 0), ("pod-1", 1), ("pod-2", 1)]);
    everywhere(&stage, &clients, |client, _, to| {
        assert_affinity(client, stage.at_node(to, NAME, 80));
    });
}

/// should fallback to terminating endpoints with externalTrafficPolicy=Cluster, dialled at every node
#[test]
fn should_fallback_to_terminating_endpoints_at_every_node() {
    let (mut stage, clients) = stage(node_port(), &[("pod-0", 0)]);
    stage.terminate("pod-0");
    everywhere(&stage, &clients, |client, _, to| {
        assert_reaches(client, stage.at_node(to, NAME, 80), Tcp, &["pod-0"]);
    });
}

/// should fallback to local terminating endpoints with externalTrafficPolicy=Local, dialled at every
/// node
#[test]
fn should_fallback_to_local_terminating_endpoints_at_every_node() {
    let (mut stage, clients) = stage(local(), &[("pod-0", 0)]);
    stage.terminate("pod-0");
    let [at_0, at_1] = [0, 1].map(|node| stage.at_node(node, NAME, 80));
    assert_reaches(&clients[0], at_0, Tcp, &["pod-0"]);
    assert_reaches(&clients[1], at_0, Tcp, &["pod-0"]);
    // From the node itself it is not external and takes any endpoint; from another node it does not.
    assert_reaches(&clients[1], at_1, Tcp, &["pod-0"]);
    assert_refused(&clients[0], at_1, Tcp);
    assert_refused(stage.host(0), at_1, Tcp);
}

/// should support externalTrafficPolicy=Local for type=NodePort, dialled at every node
#[test]
fn should_support_external_traffic_policy_local_at_every_node() {
    let mut service = local();
    service["spec"]["sessionAffinity"] = "ClientIP".into();
    let (mut stage, clients) = stage(service, &[("pod-0", 0)]);
    let at = |stage: &Stage, node| stage.at_node(node, NAME, 80);
    assert_reaches(&clients[0], at(&stage, 0), Tcp, &["pod-0"]);
    stage.start(Server::new("pod-1", NAME).on(1).tcp(80));
    assert_reaches(&clients[0], at(&stage, 0), Tcp, &["pod-0"]);
    // Affinity is one for each node: the pod of one is not kept at the other.
    assert_reaches(&clients[0], at(&stage, 1), Tcp, &["pod-1"]);
    assert_reaches(&clients[1], at(&stage, 0), Tcp, &["pod-0"]);
    let refused = || stage.cluster(0).counts(NAME, Tcp).unwrap().no_local_endpoints;
    assert_eq!(refused(), 0);
    stage.stop("pod-1");
    assert_refused(&clients[0], at(&stage, 1), Tcp);
    assert_reaches(&clients[1], at(&stage, 0), Tcp, &["pod-0"]);
    let refused = stage.cluster(0).counts(NAME, Tcp).unwrap().no_local_endpoints;
    assert_eq!(refused, 1);
    stage.start(Server::new("pod-2", NAME).on(1).tcp(80));
    assert_reaches(&clients[0], at(&stage, 1), Tcp, &["pod-2"]);
    // With the other policy it is any.
    stage.update(NAME, |service| service["spec"]["externalTrafficPolicy"] = "Cluster".into());
    stage.update(NAME, |service| service["spec"]["sessionAffinity"] = "None".into());
    assert_reaches(&clients[0], at(&stage, 1), Tcp, &["pod-0", "pod-2"]);
}

/// UDP stays with its backend at another node's address, which answers are from
#[test]
fn udp_stays_with_its_backend_at_another_nodes_address() {
    let mut service = node_port();
    service["spec"]["ports"] = vec![port("udp", "UDP", 80, 80)].into();
    let mut stage = Stage::without_kube_proxy();
    stage.create(service);
    let pods: Vec<String> = (0..4).map(|number| format!("pod-{number}")).collect();
    stage.start_all(pods.iter().map(|name| Server::new(name, NAME).on(1).udp(80)));
    let client = stage.client(0);
    let to = stage.at_node(1, NAME, 80);
    client.run(|| {
        let socket = UdpClient::unconnected(to.ip()).unwrap();
        let first = socket.ask_to(to, "hostname").unwrap();
        assert_eq!(first.from, to);
        for _ in 0..20 {
            let next = socket.ask_to(to, "hostname").unwrap();
            assert_eq!((next.who.as_str(), next.from), (first.who.as_str(), to));
        }
    });
    let names: Vec<&str> = pods.iter().map(String::as_str).collect();
    assert_reaches(&client, to, Udp, &names);
}

/// an address that is no node's, and a port that is no NodePort, are left alone
#[test]
fn what_is_no_node_port_is_left_alone() {
    let (stage, clients) = stage(node_port(), &[("pod-0", 1)]);
    let mut nowhere = stage.at_node(1, NAME, 80);
    nowhere.set_ip("203.0.113.9".parse().unwrap());
    assert!(dial(&clients[0], nowhere, Tcp).is_err(), "it is no node's address");
    let mut other_port = stage.at_node(1, NAME, 80);
    let _listener = stage.host(1).tcp_server(29_999).unwrap();
    other_port.set_port(29_999);
    assert_reaches(&clients[0], other_port, Tcp, &["node"]);
}
