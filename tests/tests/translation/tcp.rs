//! TCP clients of service addresses: what they reach, and which peer address they see.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::fd::AsFd,
    process::Command,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use sockline_testbed::{
    Cluster, DEADLINE, Protocol, Service, Socket, WebCluster, at, mapped, tcp_ask, wait_ok,
};

const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00:96::1]:80";

/// One service of both families, one pod that listens on another port, and a client.
fn cluster() -> WebCluster {
    let service = Service::new("web").ip("10.96.0.1").ip("fd00:96::1").tcp(80);
    WebCluster::with(service.to(WebCluster::PORT)).unwrap()
}

/// Reads the name that a server sends first.
fn name(stream: &mut TcpStream) -> String {
    let mut name = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        name.push(byte[0]);
    }
    String::from_utf8(name).unwrap()
}

/// A blocking connect with a socket of `family` to `to`: who answered, and the peer's name.
fn blocking(family: i32, to: SocketAddr) -> (String, SocketAddr) {
    let socket = Socket::tcp(family).unwrap();
    socket.connect(to).unwrap();
    let peer = socket.peer().unwrap();
    (name(&mut socket.into_std()), peer)
}

#[test]
fn an_ipv4_client_reaches_the_pod_and_sees_the_service() {
    let cluster = cluster();
    let (who, peer) = cluster.client.run(|| blocking(libc::AF_INET, at(V4)));
    assert_eq!((who.as_str(), peer), ("web", at(V4)));
}

#[test]
fn an_ipv6_client_reaches_the_pod_and_sees_the_service() {
    let cluster = cluster();
    let (who, peer) = cluster.client.run(|| blocking(libc::AF_INET6, at(V6)));
    assert_eq!((who.as_str(), peer), ("web", at(V6)));
}

#[test]
fn an_ipv6_socket_reaches_an_ipv4_service_by_its_mapped_address() {
    let cluster = cluster();
    let to = mapped(at(V4));
    let (who, peer) = cluster.client.run(|| blocking(libc::AF_INET6, to));
    assert_eq!((who.as_str(), peer), ("web", to));
    let seen = cluster.tcp.peers();
    assert_eq!(seen[0].ip(), cluster.client.addresses()[0], "it came over IPv4");
}

#[test]
fn each_family_of_a_service_uses_the_pods_addresses_of_that_family() {
    let cluster = cluster();
    for (to, own) in [V4, V6].into_iter().zip(cluster.client.addresses()) {
        cluster.client.tcp_ask(at(to)).unwrap();
        assert_eq!(cluster.tcp.peers().last().unwrap().ip(), *own, "{to}");
    }
}

#[test]
fn the_pod_sees_the_clients_own_address_and_port() {
    let cluster = cluster();
    for to in [V4, V6] {
        let reply = cluster.client.tcp_ask(at(to)).unwrap();
        assert_eq!(cluster.tcp.peers().last(), Some(&reply.local), "{to}");
        assert!(cluster.client.addresses().contains(&reply.local.ip()), "{}", reply.local);
    }
}

#[test]
fn no_packet_ever_has_the_service_address() {
    let cluster = cluster();
    let mut capture = cluster.client.capture().unwrap();
    for to in [V4, V6] {
        cluster.client.tcp_ask(at(to)).unwrap();
        assert_eq!(capture.packets_of(at(to).ip()).unwrap(), 0, "{:?}", capture.flows());
    }
    let to_pod = |flow: &sockline_testbed::Flow| cluster.web.addresses().contains(&flow.dst.ip());
    assert!(capture.packets(to_pod).unwrap() > 0, "{:?}", capture.flows());
}

#[test]
fn a_non_blocking_connect_is_translated_before_it_returns() {
    let cluster = cluster();
    for (family, to) in [(libc::AF_INET, V4), (libc::AF_INET6, V6)] {
        let (who, peer, again) = cluster.client.run(|| {
            let socket = Socket::tcp(family).unwrap();
            fcntl(socket.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            if let Err(error) = socket.connect(at(to)) {
                assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS), "{error}");
            }
            let peer = wait_ok(DEADLINE, "the peer's name", || socket.peer());
            // Some programs call connect again to ask whether the first one has completed.
            let again = socket.connect(at(to)).map_err(|error| error.raw_os_error());
            fcntl(socket.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
            (name(&mut socket.into_std()), peer.unwrap(), again)
        });
        assert_eq!((who.as_str(), peer), ("web", at(to)));
        // The call that completes the connect succeeds once; later ones say EISCONN.
        assert!(matches!(again, Ok(()) | Err(Some(libc::EISCONN))), "{again:?}");
        assert_eq!(cluster.tcp.peers().len(), if family == libc::AF_INET { 1 } else { 2 });
    }
}

#[test]
fn data_flows_both_ways_through_a_service() {
    let cluster = cluster();
    let payload = vec![b'x'; 300_000];
    let heard = cluster.client.run(|| {
        let mut stream = TcpStream::connect(at(V4)).unwrap();
        assert_eq!(name(&mut stream), "web");
        let mut sender = stream.try_clone().unwrap();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                sender.write_all(&payload).unwrap();
                sender.shutdown(Shutdown::Write).unwrap();
            });
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            heard
        })
    });
    assert!(heard == payload, "{} bytes came back", heard.len());
}

#[test]
fn a_socket_bound_to_the_pods_address_keeps_its_address_and_port() {
    let cluster = cluster();
    let own = SocketAddr::new(cluster.client.addresses()[0], 40_000);
    cluster.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        nix::sys::socket::bind(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            &nix::sys::socket::SockaddrStorage::from(own),
        )
        .unwrap();
        socket.connect(at(V4)).unwrap();
        assert_eq!(socket.local().unwrap(), own);
        assert_eq!(socket.peer().unwrap(), at(V4));
    });
    wait_ok(DEADLINE, "the server to accept", || {
        let peers = cluster.tcp.peers();
        if peers == [own] { Ok(()) } else { Err(format!("{peers:?}")) }
    })
    .unwrap();
}

#[test]
fn a_client_in_the_hosts_namespace_is_served_too() {
    let cluster = cluster();
    for to in [V4, V6] {
        let reply = cluster.node().tcp_ask(at(to)).unwrap();
        assert_eq!((reply.who.as_str(), reply.peer), ("web", at(to)));
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let cluster = cluster();
    for to in [V4, V6] {
        let reply = cluster.web.tcp_ask(at(to)).unwrap();
        assert_eq!((reply.who.as_str(), reply.peer), ("web", at(to)));
    }
}

#[test]
fn a_client_outside_of_the_cgroup_is_not_translated() {
    let cluster = cluster();
    let error = cluster.node().outside().tcp_ask(at(V4)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
    assert_eq!(cluster.tcp.hits(), 0);
}

/// Dials an address of no service and returns how many packets went there.
fn untouched(to: &str) -> u64 {
    let cluster = cluster();
    let mut capture = cluster.client.capture().unwrap();
    let error = cluster.client.tcp_ask(at(to)).unwrap_err();
    let refused = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
    assert!(!refused.contains(&error.kind()), "{error}");
    let counts = cluster.counts("web", Protocol::Tcp).unwrap();
    assert_eq!(counts, sockline_testbed::Counts::default());
    capture.packets(|flow| flow.dst == at(to) && flow.protocol == Protocol::Tcp).unwrap()
}

#[test]
fn an_address_that_is_no_service_is_not_translated() {
    assert!(untouched("10.96.0.2:80") > 0, "no packet went there");
    assert!(untouched("[fd00:96::2]:80") > 0, "no packet went there");
}

#[test]
fn a_port_that_the_service_does_not_have_is_not_translated() {
    assert!(untouched("10.96.0.1:81") > 0, "no packet went there");
    assert!(untouched("[fd00:96::1]:81") > 0, "no packet went there");
}

#[test]
fn the_pods_own_address_is_not_translated() {
    let cluster = cluster();
    for address in cluster.web.addresses() {
        let to = SocketAddr::new(*address, WebCluster::PORT);
        let reply = cluster.client.tcp_ask(to).unwrap();
        assert_eq!((reply.who.as_str(), reply.peer), ("web", to));
    }
    assert_eq!(cluster.counts("web", Protocol::Tcp).unwrap().translated, 0);
}

#[test]
fn a_pod_port_that_nobody_listens_on_refuses_through_the_service_as_it_does_directly() {
    let mut cluster = cluster();
    let deaf = Service::new("deaf").ip("10.96.0.9").tcp(80).to(9999).endpoints([&cluster.web]);
    cluster.apply([deaf]).unwrap();
    let error = cluster.client.tcp_ask(at("10.96.0.9:80")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let counts = cluster.counts("deaf", Protocol::Tcp).unwrap();
    assert_eq!((counts.translated, counts.no_endpoints), (1, 0));
}

#[test]
fn a_removed_service_is_not_translated_and_its_open_connections_stay() {
    let mut cluster = cluster();
    let mut stream = cluster.client.run(|| TcpStream::connect(at(V4)).unwrap());
    assert_eq!(name(&mut stream), "web");
    cluster.remove("web").unwrap();
    stream.write_all(b"still here\n").unwrap();
    assert_eq!(name(&mut stream), "still here");
    assert_eq!(stream.peer_addr().unwrap(), at(V4));
    let error = cluster.client.tcp_ask(at(V4)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
}

#[test]
fn services_with_the_same_address_and_different_ports_are_distinct() {
    let mut cluster = Cluster::new().unwrap();
    let (one, two) = (cluster.pod("one").unwrap(), cluster.pod("two").unwrap());
    let client = cluster.pod("client").unwrap();
    let _servers = (one.tcp_server(8080).unwrap(), two.tcp_server(8080).unwrap());
    let service = |name: &str, port| Service::new(name).ip("10.96.0.1").tcp(port).to(8080);
    cluster
        .apply([service("a", 80).endpoints([&one]), service("b", 81).endpoints([&two])])
        .unwrap();
    assert_eq!(client.tcp_ask(at("10.96.0.1:80")).unwrap().who, "one");
    assert_eq!(client.tcp_ask(at("10.96.0.1:81")).unwrap().who, "two");
}

#[test]
fn tcp_and_udp_of_the_same_port_are_distinct() {
    let mut cluster = Cluster::new().unwrap();
    let (one, two) = (cluster.pod("one").unwrap(), cluster.pod("two").unwrap());
    let client = cluster.pod("client").unwrap();
    let _servers = (one.tcp_server(53).unwrap(), two.udp_server(53).unwrap());
    cluster
        .apply([
            Service::new("a").ip("10.96.0.10").tcp(53).endpoints([&one]),
            Service::new("b").ip("10.96.0.10").udp(53).endpoints([&two]),
        ])
        .unwrap();
    assert_eq!(client.run(|| tcp_ask(at("10.96.0.10:53"))).unwrap().who, "one");
    assert_eq!(client.udp_ask(at("10.96.0.10:53"), "x").unwrap().who, "two");
}

/// Removes the client's route to an address, or restores it.
fn route(cluster: &WebCluster, verb: &str, to: IpAddr) {
    let mut command = Command::new("ip");
    command.args(["route", verb, "unreachable", &to.to_string()]);
    let done = cluster.client.output(&mut command).unwrap();
    assert!(done.status.success(), "ip route {verb} {to}: {done:?}");
}

/// `tcp_v4_connect` sets a socket's destination when there is a route: until then the socket looks new.
#[test]
fn a_socket_whose_connects_fail_early_has_one_record() {
    let cluster = cluster();
    let backend = cluster.web.addresses()[0];
    route(&cluster, "add", backend);
    let socket = cluster.client.run(|| Socket::tcp(libc::AF_INET).unwrap());
    for _ in 0..40 {
        cluster.client.run(|| socket.connect(at(V4)).unwrap_err());
    }
    cluster.wait_for_sockets(1).unwrap();
    route(&cluster, "del", backend);
    cluster.client.run(|| socket.connect(at(V4)).unwrap());
    assert_eq!(socket.peer().unwrap(), at(V4));
    cluster.wait_for_sockets(1).unwrap();
}

#[test]
fn a_direct_connect_after_one_that_failed_early_has_the_pods_peer_name() {
    let cluster = cluster();
    let backend = cluster.web.addresses()[0];
    route(&cluster, "add", backend);
    let socket = cluster.client.run(|| Socket::tcp(libc::AF_INET).unwrap());
    cluster.client.run(|| socket.connect(at(V4)).unwrap_err());
    route(&cluster, "del", backend);
    let direct = SocketAddr::new(backend, WebCluster::PORT);
    cluster.client.run(|| socket.connect(direct).unwrap());
    assert_eq!(socket.peer().unwrap(), direct);
    cluster.wait_for_sockets(0).unwrap();
}
