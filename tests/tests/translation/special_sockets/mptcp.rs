//! MPTCP: one connection of several subflows.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::Command,
};

use nix::sys::socket::{Backlog, SockaddrStorage, bind, listen};
use sockline_testbed::{
    DEADLINE, Ns, Protocol, Service, Socket, WebAndEmptyService, at, wait_until,
};

use super::{EMPTY, backend, count, family, forms, refusal, talk, translated};

fn mptcp(ns: &Ns, args: &[&str]) {
    let output = ns.output(Command::new("ip").arg("mptcp").args(args)).unwrap();
    assert!(output.status.success(), "ip mptcp {args:?}: {output:?}");
}

/// Lets the kernel add subflows to the namespace's MPTCP connections.
fn allow_subflows(ns: &Ns) {
    mptcp(ns, &["limits", "set", "subflow", "2", "add_addr_accepted", "2"]);
}

#[test]
fn mptcp_is_translated_and_its_peer_is_the_service_where_the_kernel_can_tell() {
    let setup = WebAndEmptyService::new().unwrap();
    // Before Linux 6.0 a subflow's connection cannot be found: the peer is the backend.
    let is_peer_translated = setup.cluster.features().unwrap().mptcp_sock;
    let mut connected = 0;
    for to in forms() {
        let peer = if is_peer_translated { to } else { backend(&setup, to) };
        connected += setup.client.run(|| {
            let Some(socket) = Socket::mptcp(family(to)).unwrap() else { return 0 };
            socket.connect(to).unwrap();
            assert_eq!(socket.peer().unwrap(), peer);
            assert_eq!(talk(&socket.into_std()), "web", "{to}");
            1
        });
    }
    assert_eq!(translated(&setup), connected);
}

/// When the kernel's path manager adds a subflow to a connection.
#[derive(Clone, Copy, PartialEq)]
enum Added {
    /// The kernel adds one by itself, once the connection is established.
    ByItself,
    /// The kernel adds one in the call that requests it, in the caller's process.
    OnDemand,
}

/// The kernel dials the backend for them, which is no service: programs once took that for a direct connect.
fn further_subflows_leave_the_peer(added: Added) {
    let mut setup = WebAndEmptyService::new().unwrap();
    let second = "10.244.200.7";
    let addresses = ["10.244.200.6", second].map(|address| address.parse().unwrap());
    let client_pod = setup.cluster.node().pod("two-addresses", &addresses).unwrap();
    if Socket::mptcp(libc::AF_INET).unwrap().is_none()
        || !setup.cluster.features().unwrap().mptcp_sock
    {
        return;
    }
    allow_subflows(&setup.web);
    allow_subflows(&client_pod);
    if added == Added::ByItself {
        mptcp(&client_pod, &["endpoint", "add", second, "subflow"]);
    }
    let listener: TcpListener = setup.web.run(|| {
        let socket = Socket::mptcp(libc::AF_INET).unwrap().unwrap();
        bind(socket.as_raw_fd(), &SockaddrStorage::from(at("0.0.0.0:8081"))).unwrap();
        listen(&socket, Backlog::new(8).unwrap()).unwrap();
        socket.into_std()
    });
    let service = Service::new("mptcp").ip("10.96.0.3").tcp(80).to(8081);
    setup.cluster.apply([service.endpoints([&setup.web])]).unwrap();
    let client: TcpStream = client_pod.run(|| {
        let socket = Socket::mptcp(libc::AF_INET).unwrap().unwrap();
        socket.connect(at("10.96.0.3:80")).unwrap();
        socket.into_std()
    });
    let (server, _) = listener.accept().unwrap();
    wait_until(DEADLINE, "a second subflow", || {
        // The kernel adds one once data has gone both ways.
        (&client).write_all(b"x").unwrap();
        (&server).write_all(b"x").unwrap();
        if added == Added::OnDemand {
            mptcp(&client_pod, &["endpoint", "flush"]);
            mptcp(&client_pod, &["endpoint", "add", second, "subflow"]);
        }
        (count(&client_pod, "MPTcpExt:", "MPJoinSynAckRx") > 0).then_some(())
    })
    .unwrap();
    assert_eq!(client.peer_addr().unwrap(), at("10.96.0.3:80"));
}

#[test]
fn further_subflows_of_an_mptcp_connection_leave_its_peer() {
    further_subflows_leave_the_peer(Added::ByItself);
}

#[test]
fn subflows_that_a_process_adds_to_an_mptcp_connection_leave_its_peer() {
    further_subflows_leave_the_peer(Added::OnDemand);
}

#[test]
fn mptcp_to_a_service_without_endpoints_is_refused() {
    let setup = WebAndEmptyService::new().unwrap();
    let refusal = refusal(&setup);
    let refused = setup.client.run(|| {
        let Some(socket) = Socket::mptcp(libc::AF_INET).unwrap() else { return 0 };
        let error = socket.connect(at(EMPTY)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(refusal), "{error}");
        1
    });
    assert_eq!(setup.cluster.counts("empty", Protocol::Tcp).unwrap().no_endpoints, refused);
}

#[test]
fn mptcp_straight_to_the_pod_has_the_pods_peer_name() {
    let setup = WebAndEmptyService::new().unwrap();
    let pod = SocketAddr::new(setup.web.addresses()[0], 8080);
    setup.client.run(|| {
        let Some(socket) = Socket::mptcp(libc::AF_INET).unwrap() else { return };
        socket.connect(pod).unwrap();
        assert_eq!(socket.peer().unwrap(), pod);
    });
}
