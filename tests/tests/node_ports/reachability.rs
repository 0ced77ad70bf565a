//! Node ports: at the node's addresses for all clients, on loopback for the node itself.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
};

use nix::sys::socket::{SockaddrStorage, bind};
use sockline_testbed::{
    ANSWER_TIMEOUT, Cluster, Counts, DEADLINE, Ns, Protocol, Service, Socket, UdpClient,
    WebCluster, mapped, wait_ok,
};

const TCP: u16 = 30_080;
const UDP: u16 = 30_053;

/// The pod behind a NodePort of each protocol.
fn cluster() -> WebCluster {
    let service = Service::new("web").ip("10.96.0.1").ip("fd00:96::1");
    let service = service.tcp(80).to(WebCluster::PORT).node_port(TCP);
    WebCluster::with(service.udp(53).to(WebCluster::PORT).node_port(UDP)).unwrap()
}

fn host(cluster: &WebCluster) -> &Ns {
    cluster.node()
}

fn counts(cluster: &WebCluster) -> [Counts; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| cluster.counts("web", protocol).unwrap())
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// TCP and UDP from `ns` reach the pod; `getpeername` returns `peer_name`.
fn assert_served(ns: &Ns, dialled: &str, peer_name: &str) {
    let tcp = ns.tcp_ask(at(dialled, TCP)).unwrap();
    assert_eq!((tcp.who.as_str(), tcp.peer), ("web", at(peer_name, TCP)), "TCP to {dialled}");
    let (udp, peer) = ns.run(|| {
        let client = UdpClient::connected(at(dialled, UDP)).unwrap();
        (client.ask("x").unwrap(), client.socket().peer_addr().unwrap())
    });
    assert_eq!((udp.who.as_str(), udp.from, peer), ("web", at(peer_name, UDP), at(peer_name, UDP)));
    let udp = ns.udp_ask(at(dialled, UDP), "x").unwrap();
    assert_eq!((udp.who.as_str(), udp.from), ("web", at(peer_name, UDP)), "UDP to {dialled}");
}

/// TCP and UDP from the host to loopback reach the pod, where the agent knows which namespace is its
/// own. Before Linux 5.14 it does not, and serves loopback of the initial one, in which the testbed's
/// host is not: here the calls are not translated.
fn assert_served_on_loopback(cluster: &WebCluster, dialled: &str, peer_name: &str) {
    if cluster.features().unwrap().netns_cookie {
        assert_served(host(cluster), dialled, peer_name);
    } else {
        assert_untouched(cluster, dialled);
    }
}

/// TCP and UDP from the host reach the host's own stack, where nothing listens.
fn assert_untouched(cluster: &WebCluster, dialled: &str) {
    let error = host(cluster).tcp_ask(at(dialled, TCP)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "TCP to {dialled}: {error}");
    let client = host(cluster).run(|| UdpClient::connected(at(dialled, UDP)).unwrap());
    let error = host(cluster).run(|| client.ask("x").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "UDP to {dialled}: {error}");
    assert_eq!(counts(cluster), [Counts::default(); 2], "none of it is the service's");
}

#[test]
fn a_pod_reaches_the_nodes_own_addresses() {
    let cluster = cluster();
    for own in cluster.node().addresses() {
        assert_served(&cluster.client, &own.to_string(), &own.to_string());
    }
}

#[test]
fn the_host_reaches_the_nodes_own_addresses() {
    let cluster = cluster();
    for own in cluster.node().addresses() {
        assert_served(host(&cluster), &own.to_string(), &own.to_string());
    }
}

#[test]
fn the_host_reaches_every_ipv4_loopback_address() {
    let cluster = cluster();
    for loopback in ["127.0.0.1", "127.0.0.5", "127.255.255.254"] {
        assert_served_on_loopback(&cluster, loopback, loopback);
    }
}

#[test]
fn the_host_reaches_ipv6_loopback() {
    let cluster = cluster();
    assert_served_on_loopback(&cluster, "::1", "::1");
}

#[test]
fn the_host_reaches_loopback_by_the_unspecified_address() {
    let cluster = cluster();
    assert_served_on_loopback(&cluster, "0.0.0.0", "127.0.0.1");
    assert_served_on_loopback(&cluster, "::", "::1");
}

#[test]
fn the_host_reaches_ipv4_loopback_through_an_ipv6_socket() {
    let cluster = cluster();
    let to = mapped(at("127.0.0.1", TCP));
    let served = cluster.features().unwrap().netns_cookie;
    host(&cluster).run(|| {
        let socket = Socket::tcp(libc::AF_INET6).unwrap();
        if !served {
            let error = socket.connect(to).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "the host's own: {error}");
            return;
        }
        socket.connect(to).unwrap();
        assert_eq!(socket.peer().unwrap(), to);
        let mut name = [0; 4];
        socket.into_std::<TcpStream>().read_exact(&mut name).unwrap();
        assert_eq!(&name, b"web\n");
    });
}

#[test]
fn loopback_in_a_pod_is_the_pods_own() {
    let cluster = cluster();
    let mut capture = cluster.client.capture().unwrap();
    for loopback in ["127.0.0.1", "127.0.0.5", "0.0.0.0", "::1", "::"] {
        let error = cluster.client.tcp_ask(at(loopback, TCP)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{loopback}: {error}");
        let error = cluster.client.run(|| {
            let client = UdpClient::connected(at(loopback, UDP)).unwrap();
            client.ask("x").unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{loopback}: {error}");
    }
    let asked = capture.packets(|flow| flow.dst.port() == TCP || flow.dst.port() == UDP).unwrap();
    assert_eq!(asked, 10, "each reached the pod's own stack: {:?}", capture.flows());
    assert_eq!(counts(&cluster), [Counts::default(); 2], "none of it is the service's");
}

#[test]
fn a_server_on_a_pods_own_loopback_keeps_its_port() {
    let cluster = cluster();
    let _own = cluster.client.tcp_server(TCP).unwrap();
    for loopback in ["127.0.0.1", "::1"] {
        assert_eq!(cluster.client.tcp_ask(at(loopback, TCP)).unwrap().who, "client");
    }
}

/// A socket of the host that is bound to `own` dials `to`.
fn dial_bound(cluster: &WebCluster, own: &str, to: SocketAddr) -> std::io::Result<SocketAddr> {
    host(cluster).run(|| {
        let own: IpAddr = own.parse().unwrap();
        let family = if own.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = Socket::tcp(family).unwrap();
        // A connect that hangs ends with EINPROGRESS after the send timeout.
        let longest = nix::sys::time::TimeVal::new(ANSWER_TIMEOUT.as_secs() as i64, 0);
        socket.set(nix::sys::socket::sockopt::SendTimeout, &longest)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(own, 0))).unwrap();
        socket.connect(to)?;
        socket.peer()
    })
}

#[test]
fn a_socket_bound_to_loopback_dials_loopback_itself() {
    let cluster = cluster();
    for loopback in ["127.0.0.1", "::1"] {
        let error = dial_bound(&cluster, loopback, at(loopback, TCP)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{loopback}: {error}");
    }
    assert_eq!(counts(&cluster), [Counts::default(); 2]);
}

#[test]
fn a_socket_bound_to_the_nodes_address_is_served_on_the_nodes_address() {
    let cluster = cluster();
    for own in cluster.node().addresses() {
        let to = SocketAddr::new(*own, TCP);
        assert_eq!(dial_bound(&cluster, &own.to_string(), to).unwrap(), to);
    }
}

#[test]
fn a_socket_bound_to_the_nodes_address_is_served_on_loopback() {
    let cluster = cluster();
    for (own, loopback) in [("192.0.2.10", "127.0.0.1"), ("2001:db8::a", "::1")] {
        let to = at(loopback, TCP);
        if cluster.features().unwrap().netns_cookie {
            assert_eq!(dial_bound(&cluster, own, to).unwrap(), to, "from {own}");
        } else {
            let error = dial_bound(&cluster, own, to).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "the host's own: {error}");
        }
    }
}

#[test]
fn a_udp_socket_that_was_connected_elsewhere_is_served_on_loopback() {
    let cluster = cluster();
    let served = cluster.features().unwrap().netns_cookie;
    host(&cluster).run(|| {
        // The kernel keeps the source address of the first connect.
        let client = UdpClient::connected(at("10.96.0.1", 53)).unwrap();
        assert_eq!(client.ask("x").unwrap().who, "web");
        client.socket().connect(at("127.0.0.1", UDP)).unwrap();
        if served {
            assert_eq!(client.ask("x").unwrap().from, at("127.0.0.1", UDP));
        } else {
            let error = client.ask("x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "the host's own: {error}");
        }
    });
}

#[test]
fn a_port_that_is_no_node_port_is_not_translated() {
    let cluster = cluster();
    for address in ["192.0.2.10", "127.0.0.1", "2001:db8::a", "::1"] {
        let error = host(&cluster).tcp_ask(at(address, TCP + 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}: {error}");
    }
    assert_eq!(counts(&cluster), [Counts::default(); 2]);
}

#[test]
fn the_cluster_port_is_not_a_node_port() {
    let cluster = cluster();
    let error = cluster.client.tcp_ask(at("192.0.2.10", 80)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn a_node_port_without_endpoints_is_refused_on_every_address() {
    let mut cluster = cluster();
    let empty = Service::new("empty").ip("10.96.0.2").tcp(80).node_port(30_081);
    cluster.apply([empty]).unwrap();
    // Without it the node itself would refuse.
    let _other = cluster.node().tcp_server(30_081).unwrap();
    let features = cluster.features().unwrap();
    let refused = |ns: &Ns, address: &str| {
        let error = ns.tcp_ask(at(address, 30_081)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(features.refusal()), "{address}: {error}");
    };
    let refusals = || cluster.counts("empty", Protocol::Tcp).unwrap().no_endpoints;
    refused(&cluster.client, "192.0.2.10");
    refused(host(&cluster), "192.0.2.10");
    assert_eq!(refusals(), 2);
    for loopback in ["127.0.0.1", "0.0.0.0"] {
        if features.netns_cookie {
            refused(host(&cluster), loopback);
        } else {
            assert_eq!(host(&cluster).tcp_ask(at(loopback, 30_081)).unwrap().who, "node");
        }
    }
    assert_eq!(refusals(), if features.netns_cookie { 4 } else { 2 });
}

#[test]
fn an_address_that_the_node_gets_later_is_served() {
    let cluster = cluster();
    let mut ip = std::process::Command::new("ip");
    let added =
        cluster.node().outside().output(ip.args("addr add 192.0.2.77/32 dev lo".split(' ')));
    assert!(added.unwrap().status.success());
    // The agent reads the interfaces every five seconds.
    let reply = wait_ok(DEADLINE, "the new address to be served", || {
        cluster.client.tcp_ask(at("192.0.2.77", TCP))
    });
    let reply = reply.unwrap();
    assert_eq!((reply.who.as_str(), reply.peer), ("web", at("192.0.2.77", TCP)));
}

/// A record has the address that was dialled, and NodePorts have one entry for all loopback addresses: a
/// lookup by the dialled address once found no backend.
#[test]
fn an_unconnected_socket_of_the_host_keeps_its_backend_on_every_loopback_address() {
    let mut cluster = Cluster::new().unwrap();
    let pods = cluster.pods("web", 6).unwrap();
    let _servers: Vec<_> = pods.iter().map(|pod| pod.udp_server(5353).unwrap()).collect();
    let service = Service::new("web").ip("10.96.0.1").udp(53).to(5353).node_port(UDP);
    cluster.apply([service.endpoints(&pods)]).unwrap();
    if !cluster.features().unwrap().netns_cookie {
        return;
    }
    for (dialled, peer_name) in
        [("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("0.0.0.0", "127.0.0.1")]
    {
        let who = cluster.node().run(|| {
            let client = UdpClient::unconnected(at(dialled, UDP).ip()).unwrap();
            let replies = (0..30).map(|_| client.ask_to(at(dialled, UDP), "x").unwrap());
            let (who, from): (BTreeSet<String>, BTreeSet<SocketAddr>) =
                replies.map(|reply| (reply.who, reply.from)).unzip();
            assert_eq!(from, BTreeSet::from([at(peer_name, UDP)]), "{dialled}");
            who
        });
        assert_eq!(who.len(), 1, "{dialled}: {who:?}");
    }
}
