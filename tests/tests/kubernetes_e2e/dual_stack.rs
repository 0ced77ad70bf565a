//! Services of both families: `dual_stack.go`. Its granular checks are those of `networking.go` for
//! the second family; here each asks for both.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
};

use serde_json::{Value, json};
use sockline_testbed::{
    Ns,
    Protocol::{self, Tcp, Udp},
};

use crate::{
    kubernetes_cluster::{KubernetesCluster, port, service},
    pods::Server,
    reach::{assert_not_served, assert_reaches, dial},
    wires,
};

const PODS: [&str; 2] = ["netserver-0", "netserver-1"];

/// A service of these families with a port of each protocol, and two pods.
fn cluster_of(name: &str, families: Option<&[&str]>) -> KubernetesCluster {
    let mut cluster = KubernetesCluster::new();
    let mut service = service(name);
    service["spec"]["ports"] = json!([port("tcp", "TCP", 80, 8083), port("udp", "UDP", 90, 8081)]);
    service["spec"]["ipFamilies"] = families.map_or(Value::Null, |families| json!(families));
    cluster.create(service);
    cluster.start_all(PODS.map(|pod| Server::new(pod, name).tcp(8083).udp(8081)));
    cluster
}

/// Cluster IPs of these families in this order, each of which is served, by pods of its family.
fn is_served_at(name: &str, families: Option<&[&str]>, expected: &[&str]) -> KubernetesCluster {
    let mut cluster = cluster_of(name, families);
    let client = cluster.client(0);
    let cluster_ips = cluster.at_each_ip(name, 80);
    let seen: Vec<&str> = cluster_ips.iter().map(|ip| family(ip.ip())).collect();
    assert_eq!(seen, expected);
    let endpoints: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
    assert_eq!(cluster.endpoint_families(name), endpoints);
    for (tcp, udp) in cluster_ips.into_iter().zip(cluster.at_each_ip(name, 90)) {
        assert_reaches(&client, tcp, Tcp, &PODS);
        assert_reaches(&client, udp, Udp, &PODS);
    }
    for pod in PODS {
        let seen = cluster.server(pod).tcp_peers();
        let seen: BTreeSet<String> = seen.iter().map(|ip| family(*ip).to_owned()).collect();
        assert_eq!(seen, endpoints, "{pod} was asked over");
    }
    cluster
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// should create a single stack service with cluster ip from primary service range
#[test]
fn should_create_a_single_stack_service_with_cluster_ip_from_primary_service_range() {
    let mut cluster = is_served_at("defaultclusterip", None, &["IPv4"]);
    let other = SocketAddr::new("fd00:96::1".parse().unwrap(), 80);
    assert_not_served(&cluster.client(0), other, Tcp);
}

/// should create service with ipv4 cluster ip
#[test]
fn should_create_service_with_ipv4_cluster_ip() {
    is_served_at("ipv4clusterip", Some(&["IPv4"]), &["IPv4"]);
}

/// should create service with ipv6 cluster ip
#[test]
fn should_create_service_with_ipv6_cluster_ip() {
    is_served_at("ipv6clusterip", Some(&["IPv6"]), &["IPv6"]);
}

/// should create service with ipv4,v6 cluster ip
#[test]
fn should_create_service_with_ipv4_v6_cluster_ip() {
    is_served_at("ipv4ipv6clusterip", Some(&["IPv4", "IPv6"]), &["IPv4", "IPv6"]);
}

/// should create service with ipv6,v4 cluster ip
#[test]
fn should_create_service_with_ipv6_v4_cluster_ip() {
    is_served_at("ipv6ipv4clusterip", Some(&["IPv6", "IPv4"]), &["IPv6", "IPv4"]);
}

/// should be able to reach pod on ipv4 and ipv6 ip
#[test]
fn should_be_able_to_reach_pod_on_ipv4_and_ipv6_ip() {
    let mut cluster = cluster_of(NAME, Some(&["IPv4", "IPv6"]));
    let client = cluster.client(0);
    for pod in PODS {
        for address in cluster.server(pod).addresses() {
            let to = SocketAddr::new(*address, 8083);
            let reply = client.tcp_ask(to).unwrap();
            assert_eq!((reply.who.as_str(), reply.peer), (pod, to));
        }
    }
}

const NAME: &str = "node-port-service";

/// A dual-stack NodePort service as the granular checks have it, with all ways to a protocol's port:
/// both cluster IPs and the node port at both addresses of the node.
fn granular(protocol: Protocol) -> (KubernetesCluster, Vec<SocketAddr>) {
    let mut cluster = cluster_of(NAME, Some(&["IPv4", "IPv6"]));
    cluster.update(NAME, |service| service["spec"]["type"] = "NodePort".into());
    let number = if protocol == Tcp { 80 } else { 90 };
    let mut ways = cluster.at_each_ip(NAME, number);
    let node_port = cluster.node_port(NAME, number);
    ways.extend(wires::node_addresses(0).map(|address| SocketAddr::new(address, node_port)));
    (cluster, ways)
}

fn functions(protocol: Protocol, client: impl FnOnce(&mut KubernetesCluster, &dyn Fn(&Ns))) {
    let (mut cluster, ways) = granular(protocol);
    client(&mut cluster, &|ns| {
        for to in &ways {
            assert_reaches(ns, *to, protocol, &PODS);
        }
    });
}

/// should function for pod-Service: http
#[test]
fn should_function_for_pod_service_http() {
    functions(Tcp, |cluster, check| check(&cluster.client(0)));
}

/// should function for pod-Service: udp
#[test]
fn should_function_for_pod_service_udp() {
    functions(Udp, |cluster, check| check(&cluster.client(0)));
}

/// should function for node-Service: http
#[test]
fn should_function_for_node_service_http() {
    functions(Tcp, |cluster, check| check(cluster.host(0)));
}

/// should function for node-Service: udp
#[test]
fn should_function_for_node_service_udp() {
    functions(Udp, |cluster, check| check(cluster.host(0)));
}

/// should function for endpoint-Service: http
#[test]
fn should_function_for_endpoint_service_http() {
    functions(Tcp, |cluster, check| check(cluster.server(PODS[0]).ns()));
}

/// should function for endpoint-Service: udp
#[test]
fn should_function_for_endpoint_service_udp() {
    functions(Udp, |cluster, check| check(cluster.server(PODS[0]).ns()));
}

/// One of the pods goes; also `networking.go`'s "should update nodePort".
fn updates_endpoints(protocol: Protocol) {
    let (mut cluster, ways) = granular(protocol);
    let client = cluster.client(0);
    for to in &ways {
        assert_reaches(&client, *to, protocol, &PODS);
    }
    cluster.stop(PODS[0]);
    for to in &ways {
        assert_reaches(&client, *to, protocol, &PODS[1..]);
    }
}

/// should update endpoints: http
#[test]
fn should_update_endpoints_http() {
    updates_endpoints(Tcp);
}

/// should update endpoints: udp
#[test]
fn should_update_endpoints_udp() {
    updates_endpoints(Udp);
}

fn has_affinity(protocol: Protocol) {
    let (mut cluster, ways) = granular(protocol);
    let client = cluster.client(0);
    cluster.update(NAME, |service| service["spec"]["sessionAffinity"] = "ClientIP".into());
    for to in ways {
        let seen: BTreeSet<String> =
            (0..15).map(|_| dial(&client, to, protocol).unwrap()).collect();
        assert_eq!(seen.len(), 1, "{to}: {seen:?}");
    }
}

/// should function for client IP based session affinity: http [LinuxOnly]
#[test]
fn should_function_for_client_ip_based_session_affinity_http() {
    has_affinity(Tcp);
}

/// should function for client IP based session affinity: udp [LinuxOnly]
#[test]
fn should_function_for_client_ip_based_session_affinity_udp() {
    has_affinity(Udp);
}

/// should be able to handle large requests: http
#[test]
fn should_be_able_to_handle_large_requests_http() {
    let (mut cluster, ways) = granular(Tcp);
    let client = cluster.client(0);
    let message = "42".repeat(1000);
    for to in ways {
        let heard = client.run(|| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.write_all(message.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut heard = String::new();
            stream.read_to_string(&mut heard).unwrap();
            heard
        });
        assert_eq!(heard.split_once('\n').unwrap().1, message, "{to}");
    }
}

/// should be able to handle large requests: udp
#[test]
fn should_be_able_to_handle_large_requests_udp() {
    let (mut cluster, ways) = granular(Udp);
    let client = cluster.client(0);
    // More than a packet: it travels in fragments.
    let message = format!("n{}", "o".repeat(1999));
    for to in ways {
        assert_eq!(client.udp_ask(to, &message).unwrap().payload, message, "{to}");
    }
}

/// should function for service endpoints using hostNetwork
#[test]
fn should_function_for_service_endpoints_using_host_network() {
    let mut cluster = KubernetesCluster::new();
    let mut service = service(NAME);
    service["spec"]["ports"] = json!([port("tcp", "TCP", 80, 8083), port("udp", "UDP", 90, 8081)]);
    service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    cluster.create(service);
    cluster.start(Server::new("netserver-0", NAME).host_network().tcp(8083).udp(8081));
    let client = cluster.client(0);
    for (number, protocol) in [(80, Tcp), (90, Udp)] {
        for to in cluster.at_each_ip(NAME, number) {
            assert_reaches(&client, to, protocol, &["node"]);
            assert_reaches(cluster.host(0), to, protocol, &["node"]);
        }
    }
}
