//! What happens on kernels without a feature, tried on this one: the agent runs as if the feature were
//! missing.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::{io::ErrorKind, net::SocketAddr, path::Path};

use sockline_testbed::{
    Cluster, Ns, Pod, Protocol, Service, Socket, TcpServer, UdpClient, UdpServer, kernel_version,
    mapped,
};

const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00:96::1]:80";
const REFUSING: &str = "10.96.0.2:80";

/// A service of both families and protocols with one pod, one without any, and a client.
struct WebAndEmptyService {
    _servers: (TcpServer, UdpServer),
    client: Pod,
    cluster: Cluster,
}

fn without(features: &str) -> WebAndEmptyService {
    let mut cluster = Cluster::with_agent_args(&["--without-features", features]).unwrap();
    let (web, client) = (cluster.pod("web").unwrap(), cluster.pod("client").unwrap());
    let servers = (web.tcp_server(8080).unwrap(), web.udp_server(8080).unwrap());
    let both = |name: &str| Service::new(name).tcp(80).to(8080).udp(80).to(8080);
    let service = both("web").ip("10.96.0.1").ip("fd00:96::1").endpoints([&web]);
    cluster.apply([service, both("nobody").ip("10.96.0.2")]).unwrap();
    WebAndEmptyService { _servers: servers, client, cluster }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// TCP, connected and unconnected UDP, each for both families and the mapped form.
fn assert_translated(setup: &WebAndEmptyService) {
    for to in [at(V4), at(V6), mapped(at(V4))] {
        let reply = setup.client.tcp_ask(to).unwrap();
        assert_eq!((reply.who.as_str(), reply.peer), ("web", to));
        setup.client.run(|| {
            let connected = UdpClient::connected(to).unwrap();
            let reply = connected.ask("x").unwrap();
            assert_eq!((reply.who.as_str(), reply.from), ("web", to));
            assert_eq!(connected.socket().peer_addr().unwrap(), to);
            let reply = UdpClient::unconnected(to.ip()).unwrap().ask_to(to, "x").unwrap();
            assert_eq!((reply.who.as_str(), reply.from), ("web", to));
        });
    }
}

#[test]
fn before_5_18_a_refusal_is_eperm_and_still_at_once() {
    let setup = without("set-retval");
    assert_translated(&setup);
    let mut capture = setup.client.capture().unwrap();
    let to = at(REFUSING);
    let refused = setup.client.run(|| {
        [
            Socket::tcp(libc::AF_INET).unwrap().connect(to),
            Socket::udp(libc::AF_INET).unwrap().connect(to),
            UdpClient::unconnected(to.ip()).unwrap().socket().send_to(b"x", to).map(drop),
        ]
    });
    for result in refused {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    assert!(capture.flows().unwrap().is_empty(), "on the wire: {:?}", capture.flows());
}

#[test]
fn before_5_12_records_of_sockets_are_in_a_hash() {
    let setup = without("compare-and-swap");
    assert_translated(&setup);
    setup.client.run(|| {
        let client = UdpClient::unconnected(at(V4).ip()).unwrap();
        for _ in 0..3 {
            assert_eq!(client.ask_to(at(V4), "x").unwrap().from, at(V4));
        }
    });
    let status = setup.cluster.status().unwrap();
    assert!(status["sockets"].is_null(), "sockets in storage cannot be counted: {status:#}");
}

#[test]
fn before_5_14_loopback_node_ports_are_the_initial_namespaces() {
    let mut setup = without("netns-cookie");
    let web = setup.cluster.pod("dns").unwrap();
    let service = Service::new("dns").ip("10.96.0.10").ip("fd00:96::10");
    setup.cluster.apply([service.udp(53).node_port(30_053).endpoints([&web])]).unwrap();
    let translated = || setup.cluster.counts("dns", Protocol::Udp).unwrap().translated;
    let connect = |ns: &Ns, to: &str| {
        ns.run(|| {
            let socket = Socket::udp(if at(to).is_ipv4() { libc::AF_INET } else { libc::AF_INET6 });
            let socket = socket.unwrap();
            // Where no route leads to the pod, the connect fails after the choice was made.
            let _ = socket.connect(at(to));
        });
    };
    for loopback in ["127.0.0.1:30053", "[::1]:30053"] {
        let before = translated();
        for ns in [&**setup.cluster.node(), &*setup.client] {
            connect(ns, loopback);
            assert_eq!(translated(), before, "{loopback} in the namespace of {}", ns.name());
        }
        connect(&setup.cluster.node().initial_namespace().unwrap(), loopback);
        assert_eq!(translated(), before + 1, "{loopback} in the initial namespace");
    }
}

#[test]
fn before_6_0_an_mptcp_socket_is_translated_and_its_peer_is_the_backend() {
    let setup = without("mptcp-sock");
    assert_translated(&setup);
    setup.client.run(|| {
        let Some(socket) = Socket::mptcp(libc::AF_INET).unwrap() else { return };
        socket.connect(at(V4)).unwrap();
        assert_eq!(socket.peer().unwrap().port(), 8080);
    });
}

/// Linux 5.12 to 5.19 close the subflow of a connection without calling a hook.
#[test]
fn before_6_0_mptcp_connections_leave_no_records() {
    let setup = without("mptcp-sock");
    let connects = 3000;
    setup.client.run(|| {
        for _ in 0..connects {
            let Some(socket) = Socket::mptcp(libc::AF_INET).unwrap() else { return };
            socket.connect(at(V4)).unwrap();
        }
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn without_kernel_btf_records_of_tcp_sockets_are_in_socket_storage() {
    let setup = without("mptcp-sock,kernel-sockets");
    assert_translated(&setup);
    setup.client.run(|| {
        for to in [at(V4), at(V6), mapped(at(V4))] {
            let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let socket = Socket::tcp(family).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(socket.peer().unwrap(), to);
            let Some(socket) = Socket::mptcp(family).unwrap() else { continue };
            socket.connect(to).unwrap();
            assert_eq!(socket.peer().unwrap().port(), 8080);
        }
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn without_all_features_services_are_served_and_status_names_what_is_missing() {
    let setup = without("set-retval,netns-cookie,mptcp-sock,kernel-sockets,compare-and-swap");
    assert_translated(&setup);
    let status = setup.cluster.agent().cli(&["status"]).unwrap();
    for done in [
        "refusals are EPERM",
        "sockets in a hash (UDP) and socket storage (TCP)",
        "loopback NodePorts for the initial network namespace",
        "MPTCP peer names not translated",
    ] {
        assert!(status.contains(done), "no {done:?} in {status}");
    }
}

/// The other tests expect the features that the agent finds, so it must find all that exist. (A feature that
/// it finds and the kernel lacks would fail those tests; a distribution may have a feature earlier.)
#[test]
fn every_feature_of_this_kernel_is_found() {
    let mut cluster = Cluster::new().unwrap();
    cluster.apply([Service::new("web").ip("10.96.0.1").tcp(80)]).unwrap();
    let version = kernel_version().unwrap();
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let probed = cluster.features().unwrap();
    for (feature, found, since) in [
        ("compare_and_swap", probed.compare_and_swap, (5, 12)),
        ("netns_cookie", probed.netns_cookie, (5, 14)),
        ("kernel_sockets", probed.kernel_sockets || !btf, (5, 12)),
        ("set_retval", probed.set_retval, (5, 18)),
        // Without kernel BTF the type of the helper's argument is unknown.
        ("mptcp_sock", probed.mptcp_sock || !btf, (6, 0)),
    ] {
        assert!(found || version < since, "{feature} is in Linux {version:?}, and was not found");
    }
}
