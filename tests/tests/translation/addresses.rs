//! The addresses of a service beside its cluster IPs: external and load-balancer addresses.

use std::{io::ErrorKind, net::SocketAddr};

use sockline_testbed::{Counts, Protocol, Service, WebCluster};

/// TCP and UDP, from a pod and from the host, all reach the pod and see this address as the peer.
fn assert_served(cluster: &WebCluster, to: &str) {
    let to: SocketAddr = to.parse().unwrap();
    for ns in [&*cluster.client, &**cluster.node()] {
        let tcp = ns.tcp_ask(to).unwrap();
        assert_eq!((tcp.who.as_str(), tcp.peer), ("web", to), "from {}", ns.name());
        let udp = ns.udp_ask(to, "x").unwrap();
        assert_eq!((udp.who.as_str(), udp.from), ("web", to), "from {}", ns.name());
    }
}

/// The packet of a connect goes to this address.
fn assert_untouched(cluster: &WebCluster, to: &str) {
    let to: SocketAddr = to.parse().unwrap();
    let mut capture = cluster.client.capture().unwrap();
    let error = cluster.client.tcp_ask(to).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
    assert!(capture.packets(|flow| flow.dst == to).unwrap() > 0, "{:?}", capture.flows());
}

fn web() -> Service {
    Service::new("web").ip("10.96.0.1").ip("fd00:96::1").tcp(80).to(8080).udp(80).to(8080)
}

#[test]
fn cluster_ips_are_served() {
    let cluster = WebCluster::with(web()).unwrap();
    assert_served(&cluster, "10.96.0.1:80");
    assert_served(&cluster, "[fd00:96::1]:80");
}

#[test]
fn external_ips_are_served() {
    let cluster =
        WebCluster::with(web().external_ip("198.51.100.7").external_ip("2001:db8:7::7")).unwrap();
    assert_served(&cluster, "198.51.100.7:80");
    assert_served(&cluster, "[2001:db8:7::7]:80");
}

#[test]
fn load_balancer_vips_are_served() {
    let cluster =
        WebCluster::with(web().load_balancer_vip("203.0.113.7").load_balancer_vip("2001:db8:9::7"))
            .unwrap();
    assert_served(&cluster, "203.0.113.7:80");
    assert_served(&cluster, "[2001:db8:9::7]:80");
}

#[test]
fn a_load_balancer_in_proxy_mode_is_not_translated() {
    let cluster = WebCluster::with(web().load_balancer_proxy("203.0.113.7")).unwrap();
    assert_untouched(&cluster, "203.0.113.7:80");
    assert_eq!(cluster.counts("web", Protocol::Tcp).unwrap(), Counts::default());
    assert_served(&cluster, "10.96.0.1:80");
}

#[test]
fn a_load_balancer_with_source_ranges_is_bypassed_and_counted() {
    let service = web().load_balancer_vip("203.0.113.7").source_range("10.0.0.0/8");
    let cluster = WebCluster::with(service).unwrap();
    assert_untouched(&cluster, "203.0.113.7:80");
    let counts = cluster.counts("web", Protocol::Tcp).unwrap();
    assert_eq!(counts, Counts { bypassed: 1, ..Counts::default() });
    assert_served(&cluster, "10.96.0.1:80");
}

#[test]
fn a_load_balancer_with_source_ranges_of_one_family_is_served_in_the_other() {
    let service = web()
        .load_balancer_vip("203.0.113.7")
        .load_balancer_vip("2001:db8:9::7")
        .source_range("10.0.0.0/8");
    let cluster = WebCluster::with(service).unwrap();
    assert_untouched(&cluster, "203.0.113.7:80");
    assert_served(&cluster, "[2001:db8:9::7]:80");
}

#[test]
fn a_removed_address_is_not_translated() {
    let mut cluster = WebCluster::with(web().external_ip("198.51.100.7")).unwrap();
    assert_served(&cluster, "198.51.100.7:80");
    let without_address = web().endpoints([&cluster.web]);
    cluster.apply([without_address]).unwrap();
    assert_untouched(&cluster, "198.51.100.7:80");
    assert_served(&cluster, "10.96.0.1:80");
}

#[test]
fn external_traffic_policy_local_serves_clients_on_the_node_from_every_endpoint() {
    let service = web().load_balancer_vip("203.0.113.7").external_local();
    let mut cluster = WebCluster::new().unwrap();
    let elsewhere = sockline_testbed::Endpoint::from(&cluster.web).on_node("node-b");
    cluster.apply([service.endpoints([elsewhere])]).unwrap();
    assert_served(&cluster, "203.0.113.7:80");
}
