//! The less usual ways to open a connection: all of them are translated like a plain connect.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    time::Duration,
};

use io_uring::{IoUring, opcode, squeue, types};
use nix::sys::socket::{
    Backlog, SockaddrLike, SockaddrStorage, bind, listen, sockopt::TcpFastOpenConnect,
};
use sockline_testbed::{
    Cluster, Ns, Pod, Protocol, Service, Socket, TcpServer, UdpClient, UdpServer, kernel_version,
    mapped, wait_until,
};

const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00:96::1]:80";
const EMPTY: &str = "10.96.0.2:80";

struct WebAndEmptyService {
    servers: (TcpServer, UdpServer),
    web: Pod,
    client: Pod,
    cluster: Cluster,
}

impl WebAndEmptyService {
    fn new() -> Self {
        Self::with(|_, _| ())
    }

    /// `prepare` gets the pod and the client before servers listen.
    fn with(prepare: impl FnOnce(&Pod, &Pod)) -> Self {
        let mut cluster = Cluster::new().unwrap();
        let (web, client) = (cluster.pod("web").unwrap(), cluster.pod("client").unwrap());
        prepare(&web, &client);
        let servers = (web.tcp_server(8080).unwrap(), web.udp_server(8080).unwrap());
        let service = Service::new("web").ip("10.96.0.1").ip("fd00:96::1");
        let service = service.tcp(80).to(8080).udp(80).to(8080).endpoints([&web]);
        let empty = Service::new("empty").ip("10.96.0.2").tcp(80).udp(80);
        cluster.apply([service, empty]).unwrap();
        Self { servers, web, client, cluster }
    }

    /// The backend of a form of the service's address.
    fn backend(&self, to: SocketAddr) -> SocketAddr {
        let [v4, v6] = self.web.addresses() else { panic!("the pod has both families") };
        match to {
            SocketAddr::V4(_) => SocketAddr::new(*v4, 8080),
            SocketAddr::V6(v6_form) if v6_form.ip().to_ipv4_mapped().is_some() => {
                mapped(SocketAddr::new(*v4, 8080))
            }
            SocketAddr::V6(_) => SocketAddr::new(*v6, 8080),
        }
    }

    /// The error number of a call to a service without endpoints on this kernel.
    fn refusal(&self) -> i32 {
        self.cluster.features().unwrap().refusal()
    }

    fn translated(&self) -> u64 {
        self.cluster.counts("web", Protocol::Tcp).unwrap().translated
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn family(to: SocketAddr) -> i32 {
    if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// All forms of the service's address.
fn forms() -> [SocketAddr; 3] {
    [at(V4), at(V6), mapped(at(V4))]
}

/// Reads the server's name, then writes a line and reads it back.
fn talk(stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines();
    let name = lines.next().unwrap().unwrap();
    let mut writer = stream;
    writer.write_all(b"more\n").unwrap();
    let mut echo = lines.next().unwrap().unwrap();
    if echo == "early" {
        echo = lines.next().unwrap().unwrap();
    }
    assert_eq!(echo, "more");
    name
}

/// Allows data in SYNs without a cookie on both ends: the connect is then really deferred.
fn enable_fast_open(web: &Pod, client: &Pod) {
    // Bits of Documentation/networking/ip-sysctl.rst; the server's count when it starts to listen.
    const CLIENT_WITHOUT_COOKIE: u32 = 0x1 | 0x4;
    const SERVER_WITHOUT_COOKIE_OR_OPTION: u32 = 0x2 | 0x200 | 0x400;
    let set = |ns: &Ns, value: u32| {
        ns.run(|| fs::write("/proc/sys/net/ipv4/tcp_fastopen", value.to_string())).unwrap();
    };
    set(client, CLIENT_WITHOUT_COOKIE);
    set(web, SERVER_WITHOUT_COOKIE_OR_OPTION);
}

/// How many SYNs of the namespace carried data.
fn syns_with_data(ns: &Ns) -> u64 {
    count(ns, "TcpExt:", "TCPFastOpenActive")
}

/// A counter of the namespace (`Documentation/networking/snmp_counter.rst`).
fn count(ns: &Ns, group: &str, name: &str) -> u64 {
    let table = ns.run(|| fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let position = names.split(' ').position(|one| one == name).unwrap();
    values.split(' ').nth(position).unwrap().parse().unwrap()
}

fn mptcp(ns: &Ns, args: &[&str]) {
    let output = ns.output(Command::new("ip").arg("mptcp").args(args)).unwrap();
    assert!(output.status.success(), "ip mptcp {args:?}: {output:?}");
}

/// Lets the kernel add subflows to the namespace's MPTCP connections.
fn allow_subflows(ns: &Ns) {
    mptcp(ns, &["limits", "set", "subflow", "2", "add_addr_accepted", "2"]);
}

#[test]
fn fast_open_by_option_is_translated_though_connect_sends_nothing() {
    let setup = WebAndEmptyService::with(enable_fast_open);
    for to in forms() {
        setup.client.run(|| {
            let socket = Socket::tcp(family(to)).unwrap();
            socket.set(TcpFastOpenConnect, &true).unwrap();
            socket.connect(to).unwrap();
            let mut stream: TcpStream = socket.into_std();
            stream.write_all(b"early\n").unwrap();
            assert_eq!(talk(&stream), "web", "{to}");
            assert_eq!(stream.peer_addr().unwrap(), to);
        });
    }
    assert_eq!(syns_with_data(&setup.client), 3, "data was in each SYN");
    assert_eq!(setup.translated(), 3);
}

#[test]
fn fast_open_by_message_flag_is_translated() {
    let setup = WebAndEmptyService::with(enable_fast_open);
    for to in forms() {
        setup.client.run(|| {
            let socket = Socket::tcp(family(to)).unwrap();
            assert_eq!(socket.send_to(b"early\n", to, libc::MSG_FASTOPEN).unwrap(), 6);
            let stream: TcpStream = socket.into_std();
            assert_eq!(talk(&stream), "web", "{to}");
            assert_eq!(stream.peer_addr().unwrap(), to);
        });
    }
    assert_eq!(syns_with_data(&setup.client), 3, "data was in each SYN");
    assert_eq!(setup.translated(), 3);
}

#[test]
fn fast_open_without_a_cookie_yet_is_translated_too() {
    let setup = WebAndEmptyService::new();
    for to in forms() {
        setup.client.run(|| {
            let socket = Socket::tcp(family(to)).unwrap();
            socket.send_to(b"early\n", to, libc::MSG_FASTOPEN).unwrap();
            let stream: TcpStream = socket.into_std();
            assert_eq!((talk(&stream), stream.peer_addr().unwrap()), ("web".to_owned(), to));
        });
    }
    assert_eq!(syns_with_data(&setup.client), 0);
}

#[test]
fn fast_open_to_a_service_without_endpoints_is_refused() {
    let setup = WebAndEmptyService::with(enable_fast_open);
    let refusal = setup.refusal();
    setup.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        let error = socket.send_to(b"early\n", at(EMPTY), libc::MSG_FASTOPEN).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(refusal), "{error}");
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        socket.set(TcpFastOpenConnect, &true).unwrap();
        let error = socket.connect(at(EMPTY)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(refusal), "{error}");
    });
}

#[test]
fn mptcp_is_translated_and_its_peer_is_the_service_where_the_kernel_can_tell() {
    let setup = WebAndEmptyService::new();
    // Before Linux 6.0 a subflow's connection cannot be found: the peer is the backend.
    let translated = setup.cluster.features().unwrap().mptcp_sock;
    let mut connected = 0;
    for to in forms() {
        let peer = if translated { to } else { setup.backend(to) };
        connected += setup.client.run(|| {
            let Some(socket) = Socket::mptcp(family(to)).unwrap() else { return 0 };
            socket.connect(to).unwrap();
            assert_eq!(socket.peer().unwrap(), peer);
            assert_eq!(talk(&socket.into_std()), "web", "{to}");
            1
        });
    }
    assert_eq!(setup.translated(), connected);
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
    let mut setup = WebAndEmptyService::new();
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
    wait_until(Duration::from_secs(10), "a second subflow", || {
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
    let setup = WebAndEmptyService::new();
    let refusal = setup.refusal();
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
    let setup = WebAndEmptyService::new();
    let pod = SocketAddr::new(setup.web.addresses()[0], 8080);
    setup.client.run(|| {
        let Some(socket) = Socket::mptcp(libc::AF_INET).unwrap() else { return };
        socket.connect(pod).unwrap();
        assert_eq!(socket.peer().unwrap(), pod);
    });
}

/// Submits one operation and returns its result.
fn ring(entry: &squeue::Entry) -> i32 {
    let mut ring = IoUring::new(2).unwrap();
    // SAFETY: what the entry points to lives in the caller until this has seen it completed.
    unsafe { ring.submission().push(entry) }.unwrap();
    ring.submit_and_wait(1).unwrap();
    ring.completion().next().unwrap().result()
}

#[test]
fn io_uring_connects_are_translated_inline_and_on_a_worker() {
    let setup = WebAndEmptyService::new();
    for flags in [squeue::Flags::empty(), squeue::Flags::ASYNC] {
        for to in forms() {
            setup.client.run(|| {
                let socket = Socket::tcp(family(to)).unwrap();
                let address = SockaddrStorage::from(to);
                let fd = types::Fd(socket.as_raw_fd());
                let entry = opcode::Connect::new(fd, address.as_ptr(), address.len()).build();
                assert_eq!(ring(&entry.flags(flags)), 0, "{to}, {flags:?}");
                assert_eq!(socket.peer().unwrap(), to);
                assert_eq!(talk(&socket.into_std()), "web");
            });
        }
    }
    assert_eq!(setup.translated(), 6);
}

#[test]
fn an_io_uring_connect_to_a_service_without_endpoints_is_refused() {
    let setup = WebAndEmptyService::new();
    let refusal = setup.refusal();
    setup.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        let address = SockaddrStorage::from(at(EMPTY));
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::Connect::new(fd, address.as_ptr(), address.len()).build();
        assert_eq!(ring(&entry), -refusal);
    });
}

#[test]
fn an_io_uring_send_is_translated() {
    let setup = WebAndEmptyService::new();
    setup.client.run(|| {
        let client = UdpClient::unconnected(at(V4).ip()).unwrap();
        let address = SockaddrStorage::from(at(V4));
        let fd = types::Fd(client.socket().as_raw_fd());
        let entry = opcode::Send::new(fd, b"x".as_ptr(), 1)
            .dest_addr(address.as_ptr())
            .dest_addr_len(address.len())
            .build();
        // Before Linux 6.0 this operation has no address.
        if kernel_version().unwrap() < (6, 0) {
            let result = ring(&entry);
            assert!([-libc::EDESTADDRREQ, -libc::EINVAL].contains(&result), "{result}");
            return;
        }
        assert_eq!(ring(&entry), 1);
        let reply = client.receive().unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("web", at(V4)));
    });
}

#[test]
fn an_io_uring_sendmsg_is_translated() {
    let setup = WebAndEmptyService::new();
    setup.client.run(|| {
        let client = UdpClient::unconnected(at(V4).ip()).unwrap();
        let address = SockaddrStorage::from(at(V4));
        let mut payload = *b"x";
        let mut part =
            libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: all zeroes is a value of a structure of integers and pointers.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.len();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        let fd = types::Fd(client.socket().as_raw_fd());
        assert_eq!(ring(&opcode::SendMsg::new(fd, &raw const message).build()), 1);
        let reply = client.receive().unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("web", at(V4)));
    });
}

#[test]
fn a_socket_outlives_the_process_that_shares_it() {
    let setup = WebAndEmptyService::new();
    setup.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        socket.connect(at(V4)).unwrap();
        // A child that has the socket as its standard input, and closes it by ending.
        let copy = socket.as_fd().try_clone_to_owned().unwrap();
        assert!(Command::new("true").stdin(copy).status().unwrap().success());
        assert_eq!(socket.peer().unwrap(), at(V4));
        setup.cluster.wait_for_sockets(1).unwrap();
        assert_eq!(talk(&socket.into_std()), "web");
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn a_child_that_inherits_a_socket_sees_the_same_peer() {
    let setup = WebAndEmptyService::new();
    setup.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        socket.connect(at(V4)).unwrap();
        let copy = socket.as_fd().try_clone_to_owned().unwrap();
        // The parent's descriptor is closed first.
        let mut child = Command::new("sleep").arg("60").stdin(copy).spawn().unwrap();
        drop(socket);
        setup.cluster.wait_for_sockets(1).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn closed_sockets_leave_no_records() {
    let setup = WebAndEmptyService::new();
    setup.client.run(|| {
        let mut open = Vec::new();
        for to in forms() {
            for n in 0..50 {
                let udp = UdpClient::unconnected(to.ip()).unwrap();
                udp.ask_to(to, "x").unwrap();
                let connected = UdpClient::connected(to).unwrap();
                let tcp = Socket::tcp(family(to)).unwrap();
                tcp.connect(to).unwrap();
                // Refused, reset, disconnected and shut down: all ways to end.
                let refused = Socket::tcp(libc::AF_INET).unwrap();
                refused.connect(at(EMPTY)).unwrap_err();
                if n % 2 == 0 {
                    tcp.disconnect().unwrap();
                }
                open.push((udp, connected, tcp, refused));
            }
        }
        setup.cluster.wait_for_sockets(450).unwrap();
    });
    setup.cluster.wait_for_sockets(0).unwrap();
    let faults = &setup.cluster.status().unwrap()["faults"];
    let counts: Vec<_> = faults.as_array().unwrap().iter().map(|f| &f["count"]).collect();
    assert!(counts.iter().all(|count| **count == 0), "{faults}");
    assert!(setup.servers.0.hits() >= 75 && setup.servers.1.hits() == 150);
}

#[test]
fn a_connection_that_lingers_after_close_keeps_no_record() {
    let setup = WebAndEmptyService::new();
    setup.client.run(|| {
        for _ in 0..20 {
            // Closed by the client first: the connection stays in TIME_WAIT.
            assert_eq!(talk(&TcpStream::connect(at(V4)).unwrap()), "web");
        }
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn a_datagram_socket_of_another_protocol_is_not_translated() {
    let setup = WebAndEmptyService::new();
    setup.client.run(|| {
        // ICMP "ping" sockets connect too, with a port of no meaning.
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        let ping = Socket::open(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP).unwrap();
        ping.connect(at(V4)).unwrap();
        assert_eq!(ping.peer().unwrap().ip(), at(V4).ip());
        let raw = Socket::open(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP).unwrap();
        raw.connect(at(V4)).unwrap();
        assert_eq!(raw.peer().unwrap().ip(), at(V4).ip());
    });
    let counts = setup.cluster.counts("web", Protocol::Udp).unwrap();
    assert_eq!(counts.translated, 0);
}

#[test]
fn many_threads_that_connect_at_once_each_have_their_own_record() {
    let mut setup = WebAndEmptyService::new();
    let pods = setup.cluster.pods("many", 6).unwrap();
    let _servers: Vec<_> = pods.iter().map(|pod| pod.udp_server(53).unwrap()).collect();
    let services: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(n, pod)| {
            let name = pod.name();
            Service::new(name).ip(&format!("10.96.2.{n}")).udp(53).endpoints([pod])
        })
        .collect();
    setup.cluster.apply(services).unwrap();
    setup.client.run(|| {
        std::thread::scope(|threads| {
            for (n, pod) in pods.iter().enumerate() {
                let to = SocketAddr::from(([10, 96, 2, u8::try_from(n).unwrap()], 53));
                let own = pod.name();
                threads.spawn(move || {
                    for _ in 0..200 {
                        let client = UdpClient::connected(to).unwrap();
                        assert_eq!(client.socket().peer_addr().unwrap(), to);
                        let reply = client.ask("x").unwrap();
                        assert_eq!((reply.who.as_str(), reply.from), (own, to));
                    }
                });
            }
        });
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn a_socket_shared_by_threads_receives_from_the_address_of_each_service() {
    // All answers together must fit in the socket's buffer: about 270 do.
    const EACH: usize = 60;
    let mut setup = WebAndEmptyService::new();
    let pods = setup.cluster.pods("many", 3).unwrap();
    let _servers: Vec<_> = pods.iter().map(|pod| pod.udp_server(53).unwrap()).collect();
    let address = |n: usize| SocketAddr::from(([10, 96, 2, u8::try_from(n).unwrap()], 53));
    let services: Vec<_> = (0..3)
        .map(|n| {
            let service = Service::new(&format!("s{n}")).ip(&address(n).ip().to_string());
            service.udp(53).endpoints([&pods[n]])
        })
        .collect();
    setup.cluster.apply(services).unwrap();
    setup.client.run(|| {
        let client = UdpClient::unconnected(at(V4).ip()).unwrap();
        std::thread::scope(|threads| {
            for n in 0..3 {
                let client = &client;
                threads.spawn(move || {
                    for _ in 0..EACH {
                        client.socket().send_to(format!("{n}").as_bytes(), address(n)).unwrap();
                    }
                });
            }
            let seen: BTreeSet<_> = (0..3 * EACH)
                .map(|_| client.receive().unwrap())
                .map(|reply| (reply.payload, reply.who, reply.from))
                .collect();
            let wanted = (0..3).map(|n| (n.to_string(), format!("many-{n}"), address(n)));
            assert_eq!(seen, wanted.collect());
        });
    });
}
