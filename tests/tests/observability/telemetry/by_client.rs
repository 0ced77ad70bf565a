//! Connections are counted by client, which is the cgroup that connected.

mod lasting;

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    process::Command,
};

use sockline::dataplane::{ClientConnections, Pins, Snapshot};
use sockline_ebpf::client::ClientCounts;
use sockline_testbed::{Cluster, Node, Ns, Protocol, Service, Socket, mapped};

use super::{CountedWeb, V4, V6, at, forms, reset, transfer, wait_for_state};
use crate::common::{eventually, holds};

const UID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";
/// A service whose port has no listener.
const DEAD: &str = "10.96.0.2:80";

/// Two containers, each a client, and the services `web` and `dead`.
struct Clients {
    front: Ns,
    back: Ns,
    web: CountedWeb,
}

impl Clients {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(args: &[&str]) -> Self {
        let mut web = CountedWeb::with(args);
        let dead = Service::new("dead").ip("10.96.0.2").tcp(80).to(9999).endpoints([&web.web]);
        web.cluster.apply([dead]).unwrap();
        let pod = web.cluster.node().pod_cgroup(UID).unwrap();
        let [front, back] = ["front", "back"].map(|name| pod.container(&web.client, name).unwrap());
        Self { front, back, web }
    }

    /// A connection of a client, and the server's end of it.
    fn connection(&self, of: &Ns, to: &str) -> (TcpStream, TcpStream) {
        let client = of.run(|| TcpStream::connect(at(to))).unwrap();
        (client, self.web.listener.accept().unwrap().0)
    }

    /// Without the feature, records of TCP sockets are in socket storage, which only programs read: then no connection
    /// is seen to be active.
    #[track_caller]
    fn assert_counted(&self, client: &Ns, service: &str, active: u64, ended: ClientCounts) {
        let active = if self.web.cluster.features().unwrap().kernel_sockets { active } else { 0 };
        assert_counted(&self.web.cluster, client, service, Protocol::Tcp, active, ended);
    }
}

#[track_caller]
fn assert_counted(
    cluster: &Cluster,
    client: &Ns,
    service: &str,
    protocol: Protocol,
    active: u64,
    ended: ClientCounts,
) {
    eventually(&format!("{active} active, {ended:?}"), || {
        let seen = of(cluster.node(), client, service, protocol);
        holds(seen == (active, ended), format!("{seen:?}"))
    });
}

/// All clients of a node, as they are read by others than its agent.
fn all(node: &Node) -> Vec<ClientConnections> {
    let snapshot = Snapshot::open(Pins::in_bpffs(node.bpffs())).unwrap();
    snapshot.clients().unwrap().connections().unwrap()
}

/// The active connections of a client to a service, and those that ended.
fn of(node: &Node, client: &Ns, service: &str, protocol: Protocol) -> (u64, ClientCounts) {
    let cgroup = cgroup_of(client);
    let found = all(node).into_iter().filter(|one| {
        let key = &one.service;
        one.cgroup == cgroup
            && &*key.service.name == service
            && key.protocol.to_string() == protocol.to_string()
    });
    found.fold((0, ClientCounts::NONE), |(active, mut ended), one| {
        ended.add(&one.ended);
        // A busy machine may be late with an acknowledgement.
        ended.retransmitted = 0;
        (active + one.active, ended)
    })
}

/// The id of a client's cgroup: the inode of its folder (`kernfs`).
fn cgroup_of(client: &Ns) -> u64 {
    let paths = client.run(|| fs::read_to_string("/proc/thread-self/cgroup")).unwrap();
    let path = paths.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut roots = mounts.filter(|mount| mount[2] == "cgroup2").map(|mount| mount[1].to_owned());
    let folder = roots.find_map(|root| fs::metadata(format!("{root}/{path}")).ok());
    folder.unwrap_or_else(|| panic!("no folder for {path}")).ino()
}

#[test]
fn each_client_of_each_service_has_its_own_counts() {
    let clients = Clients::new();
    let (front, back) = (&clients.front, &clients.back);
    let (mut client, mut server) = clients.connection(front, V4);
    transfer(&mut client, &mut server, 100);
    transfer(&mut server, &mut client, 3_000);
    drop((client, server));
    let open = clients.connection(front, V6);
    drop(clients.connection(back, V6));
    let (mut client, _server) = clients.connection(back, V6);
    client.write_all(b"nobody answers").unwrap();
    drop(client);
    for _ in 0..3 {
        back.run(|| TcpStream::connect(at(DEAD))).unwrap_err();
    }
    let ended = ClientCounts { closed: 1, sent: 100, received: 3_000, ..ClientCounts::NONE };
    clients.assert_counted(front, "web", 1, ended);
    let ended = ClientCounts { closed: 2, sent: 14, unanswered: 1, ..ClientCounts::NONE };
    clients.assert_counted(back, "web", 0, ended);
    let failed = ClientCounts { closed: 3, failed: 3, ..ClientCounts::NONE };
    clients.assert_counted(back, "dead", 0, failed);
    clients.assert_counted(front, "dead", 0, ClientCounts::NONE);
    // The agent's counts by service port add up to the same.
    let seen = clients.web.seen();
    assert_eq!((seen.opened, seen.active, seen.sent, seen.received), (4, 1, 114, 3_000));
    drop(open);
}

#[test]
fn the_client_is_who_connected_and_not_who_closes() {
    let clients = Clients::new();
    let (client, _server) = clients.connection(&clients.front, V4);
    clients.back.run(|| drop(client));
    let ended = ClientCounts { closed: 1, ..ClientCounts::NONE };
    clients.assert_counted(&clients.front, "web", 0, ended);
    clients.assert_counted(&clients.back, "web", 0, ClientCounts::NONE);
}

#[test]
fn a_socket_that_connects_three_times_is_three_connections() {
    let clients = Clients::new();
    for to in forms() {
        clients.front.run(|| {
            let socket = Socket::tcp(super::family(to)).unwrap();
            let dead = if to.is_ipv4() { at(DEAD) } else { mapped(at(DEAD)) };
            if to != at(V6) {
                socket.connect(dead).unwrap_err();
                socket.connect(dead).unwrap_err();
            }
            socket.connect(to).unwrap();
        });
    }
    let web = ClientCounts { closed: 3, ..ClientCounts::NONE };
    clients.assert_counted(&clients.front, "web", 0, web);
    let dead = ClientCounts { closed: 4, failed: 4, ..ClientCounts::NONE };
    clients.assert_counted(&clients.front, "dead", 0, dead);
}

#[test]
fn a_client_that_is_killed_has_its_connections_counted() {
    let clients = Clients::new();
    let (mut client, mut server) = clients.connection(&clients.front, V4);
    transfer(&mut client, &mut server, 5);
    // The socket is all that this process has of ours. bash could connect itself, but is not on all test machines.
    let mut sleep = Command::new("sleep");
    let mut child = clients.front.child(sleep.arg("1000").stdin(OwnedFd::from(client))).unwrap();
    drop(sleep);
    clients.assert_counted(&clients.front, "web", 1, ClientCounts::NONE);
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = ClientCounts { closed: 1, sent: 5, unanswered: 1, ..ClientCounts::NONE };
    clients.assert_counted(&clients.front, "web", 0, ended);
}

#[test]
fn a_reset_is_no_failure() {
    let clients = Clients::new();
    let (client, server) = clients.connection(&clients.front, V4);
    reset(server);
    wait_for_state(&client, super::CLOSE);
    drop(client);
    let ended = ClientCounts { closed: 1, ..ClientCounts::NONE };
    clients.assert_counted(&clients.front, "web", 0, ended);
}

#[test]
fn a_flow_counts_for_its_client() {
    let clients = Clients::new();
    let flows = |client: &Ns, active, closed| {
        let ended = ClientCounts { closed, ..ClientCounts::NONE };
        assert_counted(&clients.web.cluster, client, "web", Protocol::Udp, active, ended);
    };
    let socket = clients.front.run(|| Socket::udp(libc::AF_INET)).unwrap();
    for _ in 0..3 {
        clients.front.run(|| socket.connect(at(V4))).unwrap();
    }
    let other = clients.back.run(|| Socket::udp(libc::AF_INET6)).unwrap();
    clients.back.run(|| other.connect(at(V6))).unwrap();
    flows(&clients.back, 1, 0);
    drop((socket, other));
    flows(&clients.front, 0, 3);
    flows(&clients.back, 0, 1);
}

/// Where the records are in the overflow hash, and in socket storage.
#[test]
fn ends_are_counted_by_client_wherever_the_records_are() {
    for without in ["compare-and-swap", "kernel-sockets", "mptcp-sock"] {
        let clients = Clients::with(&["--without-features", without]);
        let (mut client, mut server) = clients.connection(&clients.front, V4);
        transfer(&mut client, &mut server, 100);
        drop((client, server));
        clients.front.run(|| TcpStream::connect(at(DEAD))).unwrap_err();
        let socket = clients.front.run(|| Socket::tcp(libc::AF_INET6)).unwrap();
        for _ in 0..2 {
            clients.front.run(|| socket.connect(mapped(at(DEAD)))).unwrap_err();
        }
        drop(socket);
        let ended = ClientCounts { closed: 1, sent: 100, unanswered: 1, ..ClientCounts::NONE };
        clients.assert_counted(&clients.front, "web", 0, ended);
        let failed = ClientCounts { closed: 3, failed: 3, ..ClientCounts::NONE };
        clients.assert_counted(&clients.front, "dead", 0, failed);
    }
}

#[test]
fn nothing_is_counted_by_client_if_that_is_off() {
    for off in ["--client-counts=false", "--telemetry=off"] {
        let clients = Clients::with(&[off]);
        drop(clients.connection(&clients.front, V4));
        eventually("the end to be counted", || {
            let seen = clients.web.seen();
            let closed: u64 = seen.closed.values().sum();
            holds((seen.opened, closed) == (1, 1), format!("{seen:?}"))
        });
        assert_eq!(all(clients.web.cluster.node()), [], "{off}");
        let status = clients.web.cluster.status().unwrap();
        assert_eq!(status["agent"]["clientCounts"], "off", "{off}");
    }
}
