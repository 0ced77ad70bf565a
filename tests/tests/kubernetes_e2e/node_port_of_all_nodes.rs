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
    kubernetes_cluster::{KubernetesCluster, port, service_of_type},
    pods::Server,
    reach::{assert_reaches, assert_refused, dial},
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
fn cluster(service: Value, pods: &[(&str, usize)]) -> (KubernetesCluster, [Pod; 2]) {
    let mut cluster = KubernetesCluster::without_kube_proxy();
    cluster.create(service);
    cluster.start_all(pods.iter().map(|(name, node)| Server::new(name, NAME).on(*node).tcp(80)));
    let clients = [0, 1].map(|node| cluster.client(node));
    (cluster, clients)
}

/// Each node with both of its addresses, dialled from the pod and the host of each node.
fn everywhere(
    cluster: &KubernetesCluster,
    clients: &[Pod; 2],
    mut check: impl FnMut(&Ns, usize, usize),
) {
    for (from, client) in clients.iter().enumerate() {
        for to in [0, 1] {
            check(client, from, to);
            check(cluster.host(from), from, to);
        }
    }
}

/// should be able to create a functioning NodePort service, dialled at every node
#[test]
fn should_be_able_to_create_a_functioning_node_port_service_at_every_node() {
    let mut service = node_port();
    service["spec"]["ipFamilies"] = ["IPv4", "IPv6"].as_slice().into();
    let (cluster, clients) = cluster(service, &[("pod-0", 0), ("pod-1", 1)]);
    everywhere(&cluster, &clients, |client, _, to| {
        for at in cluster.at_each_address(to, NAME, 80) {
            assert_reaches(client, at, Tcp, &["pod-0", "pod-1"]);
        }
    });
    // One entry for the port in each family, at whatever number of nodes.
    let metrics = cluster.node_with_agent(0).metrics().unwrap();
    let addresses = metrics.sum("sockline_frontends", &[]);
    assert_eq!(addresses, f64::from(2 * (1 + 2 + 1)), "cluster IP, node and loopback, others");
}

/// should have session affinity work for NodePort service, dialled at every node
#[test]
fn should_have_session_affinity_work_at_every_node() {
    let mut service = node_port();
    service["spec"]["sessionAffinity"] = "ClientIP".into();
    let (cluster, clients) = cluster(service, &[("pod-0", 0), ("pod-1", 1), ("pod-2", 1)]);
    everywhere(&cluster, &clients, |client, _, to| {
        assert_affinity(client, cluster.at_node(to, NAME, 80));
    });
}

/// should fallback to terminating endpoints with externalTrafficPolicy=Cluster, dialled at every node
#[test]
fn should_fallback_to_terminating_endpoints_at_every_node() {
    let (mut cluster, clients) = cluster(node_port(), &[("pod-0", 0)]);
    cluster.terminate("pod-0");
    everywhere(&cluster, &clients, |client, _, to| {
        assert_reaches(client, cluster.at_node(to, NAME, 80), Tcp, &["pod-0"]);
    });
}

/// should fallback to local terminating endpoints with externalTrafficPolicy=Local, dialled at every
/// node
#[test]
fn should_fallback_to_local_terminating_endpoints_at_every_node() {
    let (mut cluster, clients) = cluster(local(), &[("pod-0", 0)]);
    cluster.terminate("pod-0");
    let [at_0, at_1] = [0, 1].map(|node| cluster.at_node(node, NAME, 80));
    assert_reaches(&clients[0], at_0, Tcp, &["pod-0"]);
    assert_reaches(&clients[1], at_0, Tcp, &["pod-0"]);
    // From the node itself it is not external and takes any endpoint; from another node it does not.
    assert_reaches(&clients[1], at_1, Tcp, &["pod-0"]);
    assert_refused(&clients[0], at_1, Tcp);
    assert_refused(cluster.host(0), at_1, Tcp);
}

/// should support externalTrafficPolicy=Local for type=NodePort, dialled at every node
#[test]
fn should_support_external_traffic_policy_local_at_every_node() {
    let mut service = local();
    service["spec"]["sessionAffinity"] = "ClientIP".into();
    let (mut cluster, clients) = cluster(service, &[("pod-0", 0)]);
    let at = |cluster: &KubernetesCluster, node| cluster.at_node(node, NAME, 80);
    assert_reaches(&clients[0], at(&cluster, 0), Tcp, &["pod-0"]);
    cluster.start(Server::new("pod-1", NAME).on(1).tcp(80));
    assert_reaches(&clients[0], at(&cluster, 0), Tcp, &["pod-0"]);
    // Affinity is one for each node: the pod of one is not kept at the other.
    assert_reaches(&clients[0], at(&cluster, 1), Tcp, &["pod-1"]);
    assert_reaches(&clients[1], at(&cluster, 0), Tcp, &["pod-0"]);
    let refused = || cluster.node_with_agent(0).counts(NAME, Tcp).unwrap().no_local_endpoints;
    assert_eq!(refused(), 0);
    cluster.stop("pod-1");
    assert_refused(&clients[0], at(&cluster, 1), Tcp);
    assert_reaches(&clients[1], at(&cluster, 0), Tcp, &["pod-0"]);
    let refused = cluster.node_with_agent(0).counts(NAME, Tcp).unwrap().no_local_endpoints;
    assert_eq!(refused, 1);
    cluster.start(Server::new("pod-2", NAME).on(1).tcp(80));
    assert_reaches(&clients[0], at(&cluster, 1), Tcp, &["pod-2"]);
    // With the other policy it is any.
    cluster.update(NAME, |service| service["spec"]["externalTrafficPolicy"] = "Cluster".into());
    cluster.update(NAME, |service| service["spec"]["sessionAffinity"] = "None".into());
    assert_reaches(&clients[0], at(&cluster, 1), Tcp, &["pod-0", "pod-2"]);
}

/// UDP stays with its backend at another node's address, which answers are from
#[test]
fn udp_stays_with_its_backend_at_another_nodes_address() {
    let mut service = node_port();
    service["spec"]["ports"] = vec![port("udp", "UDP", 80, 80)].into();
    let mut cluster = KubernetesCluster::without_kube_proxy();
    cluster.create(service);
    let pods: Vec<String> = (0..4).map(|number| format!("pod-{number}")).collect();
    cluster.start_all(pods.iter().map(|name| Server::new(name, NAME).on(1).udp(80)));
    let client = cluster.client(0);
    let to = cluster.at_node(1, NAME, 80);
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

/// an address that is no node's, and a port that is no NodePort, are not translated
#[test]
fn ports_that_are_not_node_ports_are_not_translated() {
    let (cluster, clients) = cluster(node_port(), &[("pod-0", 1)]);
    let mut nowhere = cluster.at_node(1, NAME, 80);
    nowhere.set_ip("203.0.113.9".parse().unwrap());
    assert!(dial(&clients[0], nowhere, Tcp).is_err(), "it is no node's address");
    let mut other_port = cluster.at_node(1, NAME, 80);
    let _listener = cluster.host(1).tcp_server(29_999).unwrap();
    other_port.set_port(29_999);
    assert_reaches(&clients[0], other_port, Tcp, &["node"]);
}
