//! What happens on kernels without a feature, tried on this one: the agent runs as if the feature were
//! missing.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
};

use nix::sys::socket::SockaddrStorage;
use sockline_ebpf::socket::ROOT_CGROUP;
use sockline_testbed::{
    Cluster, Ns, Protocol, Service, Socket, UdpClient, WebAndEmptyService, at, kernel_version,
    mapped,
};

#[path = "common/wait.rs"]
mod wait;

use self::wait::{eventually, holds};

const V4: &str = WebAndEmptyService::V4;
const V6: &str = WebAndEmptyService::V6;
const REFUSING: &str = WebAndEmptyService::EMPTY;

fn without(features: &str) -> WebAndEmptyService {
    WebAndEmptyService::with_agent_args(&["--without-features", features]).unwrap()
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

/// Threads of the kernel are there, whose sockets end unseen, and which cannot be told from processes.
#[test]
fn without_kernel_btf_connections_of_the_root_cgroup_are_untracked() {
    let setup = without("mptcp-sock,kernel-sockets");
    let untracked = || {
        let metrics = setup.cluster.metrics().unwrap();
        let of = |name: &str| {
            let of_service = [("service", "web"), ("protocol", "TCP")];
            metrics.sum(&format!("sockline_connections_{name}"), &of_service)
        };
        ["opened_total", "active", "closed_total", "untracked_total"].map(of)
    };
    let socket = setup.client.run(|| Socket::tcp(libc::AF_INET)).unwrap();
    connect_in_root_cgroup(&socket, setup.cluster.node().cgroup(), at(V4));
    assert_eq!(socket.peer().unwrap(), at(V4));
    assert_eq!(untracked(), [1.0, 0.0, 0.0, 1.0]);
    drop(socket);
    assert_eq!(untracked(), [1.0, 0.0, 0.0, 1.0]);
    // Others are counted to their end.
    setup.client.tcp_ask(at(V4)).unwrap();
    eventually("the end to be counted", || {
        let counts = untracked();
        holds(counts == [2.0, 0.0, 1.0, 1.0], format!("{counts:?}"))
    });
}

/// Connects a socket by a process in the root of a cgroup's hierarchy.
fn connect_in_root_cgroup(socket: &Socket, cgroup: &Path, to: SocketAddr) {
    let is_root = |path: &&Path| path.metadata().is_ok_and(|found| found.ino() == ROOT_CGROUP);
    let processes = cgroup.ancestors().find(is_root).unwrap().join("cgroup.procs");
    let (fd, to) = (socket.as_raw_fd(), SockaddrStorage::from(to));
    let mut command = Command::new("true");
    let connect = move || {
        fs::write(&processes, "0")?;
        Ok(nix::sys::socket::connect(fd, &to)?)
    };
    // SAFETY: the child has a copy of this process's memory, and no other thread has a lock of what it calls.
    unsafe { command.pre_exec(connect) };
    assert!(command.status().unwrap().success());
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
