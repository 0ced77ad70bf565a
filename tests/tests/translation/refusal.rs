//! A service without usable endpoints: every way to reach it fails at once, with ECONNREFUSED from
//! Linux 5.18 on and with EPERM before.

use std::{io, net::SocketAddr};

use sockline_testbed::{
    Counts, Endpoint, Pod, Protocol, Service, Socket, UdpClient, WebCluster, at, mapped,
};

const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00:96::1]:80";

/// A cluster with a service of the pod `web`.
fn with(service: impl FnOnce(&Pod) -> Service) -> WebCluster {
    let mut cluster = WebCluster::new().unwrap();
    let service = service(&cluster.web);
    cluster.apply([service]).unwrap();
    cluster
}

fn refused(
    cluster: &WebCluster,
    to: SocketAddr,
    dial: impl FnOnce(SocketAddr) -> io::Result<()> + Send,
) {
    let mut capture = cluster.client.capture().unwrap();
    let error = cluster.client.run(|| dial(to)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(refusal(cluster)), "{to}: {error}");
    assert!(capture.flows().unwrap().is_empty(), "on the wire: {:?}", capture.flows());
}

/// The error number of a refusal on this kernel.
fn refusal(cluster: &WebCluster) -> i32 {
    cluster.features().unwrap().refusal()
}

fn counts(cluster: &WebCluster, protocol: Protocol) -> Counts {
    cluster.counts("web", protocol).unwrap()
}

fn web() -> Service {
    Service::new("web").ip("10.96.0.1").ip("fd00:96::1").tcp(80).udp(80)
}

fn connect(kind: fn(i32) -> io::Result<Socket>, to: SocketAddr) -> io::Result<()> {
    kind(if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })?.connect(to)
}

fn send(to: SocketAddr) -> io::Result<()> {
    UdpClient::unconnected(to.ip())?.socket().send_to(b"x", to).map(|_| ())
}

/// Every way to call a service, for both families and the mapped form: 3 TCP, 6 UDP.
fn assert_all_refused(cluster: &WebCluster) {
    for to in [at(V4), at(V6), mapped(at(V4))] {
        refused(cluster, to, |to| connect(Socket::tcp, to));
        refused(cluster, to, |to| connect(Socket::udp, to));
        refused(cluster, to, send);
    }
}

#[test]
fn a_service_without_endpoints_is_refused_and_counted_as_such() {
    let cluster = with(|_| web());
    assert_all_refused(&cluster);
    let refused = |count| Counts { no_endpoints: count, ..Counts::default() };
    assert_eq!(counts(&cluster, Protocol::Tcp), refused(3));
    assert_eq!(counts(&cluster, Protocol::Udp), refused(6));
}

#[test]
fn a_service_whose_endpoints_are_not_ready_is_refused() {
    let cluster = with(|pod| web().endpoints([Endpoint::from(pod).unready()]));
    assert_all_refused(&cluster);
    assert_eq!(counts(&cluster, Protocol::Tcp).no_endpoints, 3);
}

#[test]
fn internal_traffic_policy_local_without_a_local_endpoint_is_refused_and_counted_as_such() {
    let cluster =
        with(|pod| web().internal_local().endpoints([Endpoint::from(pod).on_node("node-b")]));
    assert_all_refused(&cluster);
    let refused = |count| Counts { no_local_endpoints: count, ..Counts::default() };
    assert_eq!(counts(&cluster, Protocol::Tcp), refused(3));
    assert_eq!(counts(&cluster, Protocol::Udp), refused(6));
}

#[test]
fn internal_traffic_policy_local_reaches_the_local_endpoint_only() {
    let mut cluster = WebCluster::new().unwrap();
    let far = cluster.pod("far").unwrap();
    let _servers = (cluster.web.udp_server(80).unwrap(), far.udp_server(80).unwrap());
    let endpoints = [Endpoint::from(&cluster.web), Endpoint::from(&far).on_node("node-b")];
    cluster.apply([web().internal_local().endpoints(endpoints)]).unwrap();
    for _ in 0..40 {
        assert_eq!(cluster.client.udp_ask(at(V4), "x").unwrap().who, "web");
    }
}

#[test]
fn a_family_without_endpoints_is_refused_while_the_other_is_served() {
    let mut cluster = WebCluster::new().unwrap();
    let _server = cluster.web.tcp_server(80).unwrap();
    let only_v4 = Endpoint::at(&cluster.web.addresses()[..1]);
    cluster.apply([web().endpoints([only_v4])]).unwrap();
    assert_eq!(cluster.client.tcp_ask(at(V4)).unwrap().who, "web");
    refused(&cluster, at(V6), |to| connect(Socket::tcp, to));
}

#[test]
fn refusals_end_with_the_first_endpoint_and_return_without_the_last() {
    let mut cluster = with(|_| web());
    let _server = cluster.web.tcp_server(80).unwrap();
    for _ in 0..3 {
        refused(&cluster, at(V4), |to| connect(Socket::tcp, to));
        let with_endpoint = web().endpoints([&cluster.web]);
        cluster.apply([with_endpoint]).unwrap();
        assert_eq!(cluster.client.tcp_ask(at(V4)).unwrap().who, "web");
        cluster.apply([web()]).unwrap();
    }
}

#[test]
fn draining_endpoints_serve_when_there_are_no_others() {
    let mut cluster = WebCluster::new().unwrap();
    let _server = cluster.web.tcp_server(80).unwrap();
    let draining = Endpoint::from(&cluster.web).draining();
    cluster.apply([web().endpoints([draining])]).unwrap();
    assert_eq!(cluster.client.tcp_ask(at(V4)).unwrap().who, "web");
}

#[test]
fn a_connected_udp_socket_keeps_its_peer_when_another_connect_is_refused() {
    let mut cluster = with(|_| web());
    let _server = cluster.web.udp_server(53).unwrap();
    let dns = Service::new("dns").ip("10.96.0.10").udp(53).endpoints([&cluster.web]);
    cluster.apply([dns]).unwrap();
    let refusal = refusal(&cluster);
    cluster.client.run(|| {
        let client = UdpClient::connected(at("10.96.0.10:53")).unwrap();
        let error = client.socket().connect(at(V4)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(refusal), "{error}");
        assert_eq!(client.socket().peer_addr().unwrap(), at("10.96.0.10:53"));
        assert_eq!(client.ask("x").unwrap().who, "web");
    });
}

#[test]
fn a_socket_that_was_refused_can_be_used_for_another_service_and_then_for_a_pod() {
    let mut cluster = with(|_| web());
    let good = Service::new("good").ip("10.96.0.2").tcp(80).to(WebCluster::PORT);
    let deaf = Service::new("deaf").ip("10.96.0.3").tcp(80).to(9999);
    let services = [good, deaf].map(|service| service.endpoints([&cluster.web]));
    cluster.apply(services).unwrap();
    let pod = SocketAddr::new(cluster.web.addresses()[0], WebCluster::PORT);
    let refusal = refusal(&cluster);
    cluster.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        // Refused by Sockline, then by the pod: neither leaves a record.
        for (refused, with) in [(V4, refusal), ("10.96.0.3:80", libc::ECONNREFUSED)] {
            let error = socket.connect(at(refused)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(with), "{refused}: {error}");
        }
        // And each of these after the other, disconnected with AF_UNSPEC in between.
        for to in [at("10.96.0.2:80"), pod, at("10.96.0.2:80"), pod] {
            socket.connect(to).unwrap();
            assert_eq!(socket.peer().unwrap(), to);
            socket.disconnect().unwrap();
            let error = socket.peer().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "{error}");
        }
    });
}
