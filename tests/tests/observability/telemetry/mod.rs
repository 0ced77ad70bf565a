//! What is counted of connections equals what the applications saw.

mod by_class;
mod by_client;
mod concurrency;
mod failures;
mod hanging_connects;
mod layout;
mod long_connections;
mod outcomes;
mod persistence;
mod program_log;
mod ten_thousand;
mod udp;
mod watch;

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use nix::{
    sys::socket::sockopt::Linger,
    time::{ClockId, clock_gettime},
};
use sockline::dataplane::Pins;
use sockline_testbed::{
    Cluster, Metrics, Node, Pod, Protocol, Service, Socket, bpf::RawMap, mapped,
};

use crate::common::{eventually, holds};

const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00:96::1]:80";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn family(to: SocketAddr) -> i32 {
    if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// A word of what programs know of the agent, by its offset.
fn agent_state(node: &Node, offset: usize) -> u64 {
    let map = RawMap::pinned(&Pins::in_bpffs(node.bpffs()).map("AGENT_STATE")).unwrap();
    let state = map.get(&0_u32.to_ne_bytes()).unwrap().unwrap();
    u64::from_ne_bytes(state[offset..offset + size_of::<u64>()].try_into().unwrap())
}

/// `CLOCK_MONOTONIC` in nanoseconds.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// All forms of the service's address.
fn forms() -> [SocketAddr; 3] {
    [at(V4), at(V6), mapped(at(V4))]
}

/// A pod with a listener behind the service `web`, a client, and the agent.
struct CountedWeb {
    listener: TcpListener,
    client: Pod,
    web: Pod,
    cluster: Cluster,
}

impl CountedWeb {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(args: &[&str]) -> Self {
        let mut cluster = Cluster::with_agent_args(args).unwrap();
        let (web, client) = (cluster.pod("web").unwrap(), cluster.pod("client").unwrap());
        let listener = web.run(|| TcpListener::bind("[::]:8080")).unwrap();
        cluster.apply([Self::service().endpoints([&web])]).unwrap();
        Self { listener, client, web, cluster }
    }

    /// The TCP port has a listener, nothing listens at the UDP port.
    fn service() -> Service {
        let service = Service::new("web").ip("10.96.0.1").ip("fd00:96::1");
        service.tcp(80).to(8080).udp(80).to(8080)
    }

    /// A connection of the client, and the server's end of it.
    fn connection(&self, to: SocketAddr) -> (TcpStream, TcpStream) {
        let client = self.client.run(|| TcpStream::connect(to)).unwrap();
        (client, self.listener.accept().unwrap().0)
    }

    fn socket(&self, to: SocketAddr) -> Socket {
        self.client.run(|| Socket::tcp(family(to))).unwrap()
    }

    fn seen(&self) -> Seen {
        Seen::of(&self.cluster, "web", Protocol::Tcp)
    }

    #[track_caller]
    fn assert_seen(&self, expected: &Seen) {
        assert_counted(&self.cluster, "web", Protocol::Tcp, expected);
    }
}

/// Waits until the metrics say this of a service. A socket that was closed here may exist a moment longer in a child
/// process that another test is starting.
#[track_caller]
fn assert_counted(cluster: &Cluster, service: &str, protocol: Protocol, expected: &Seen) {
    eventually(&format!("{expected:?}"), || {
        let seen = Seen::of(cluster, service, protocol);
        holds(seen == *expected, format!("{seen:?}"))
    });
}

/// What the metrics say of the connections to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    opened: u64,
    active: u64,
    closed: BTreeMap<String, u64>,
    failed: BTreeMap<String, u64>,
    untracked: u64,
    unanswered: u64,
    sent: u64,
    received: u64,
    round_trips: u64,
    lifetimes: u64,
}

impl Seen {
    /// Whether all adds up is checked each time.
    #[track_caller]
    fn of(cluster: &Cluster, service: &str, protocol: Protocol) -> Self {
        Self::in_metrics(&cluster.metrics().unwrap(), service, protocol)
    }

    #[track_caller]
    fn in_metrics(metrics: &Metrics, service: &str, protocol: Protocol) -> Self {
        let protocol = protocol.to_string();
        let service = [("service", service), ("protocol", protocol.as_str())];
        let of = |name: &str| metrics.sum(&format!("sockline_{name}"), &service) as u64;
        let by = |name: &str, label: &str| {
            let name = format!("sockline_connections_{name}_total");
            let values = metrics.label_values(&name, label).into_iter().map(|value| {
                let labels = [&service[..], &[(label, value)]].concat();
                (value.to_owned(), metrics.sum(&name, &labels) as u64)
            });
            values.filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>()
        };
        let seen = Self {
            opened: of("connections_opened_total"),
            active: of("connections_active"),
            closed: by("closed", "how"),
            failed: by("failed", "reason"),
            untracked: of("connections_untracked_total"),
            unanswered: of("connections_unanswered_total"),
            sent: of("sent_bytes_total"),
            received: of("received_bytes_total"),
            round_trips: of("round_trip_seconds_count"),
            lifetimes: of("connection_lifetime_seconds_count"),
        };
        let closed: u64 = seen.closed.values().sum();
        assert_eq!(seen.opened, seen.active + closed + seen.untracked, "it adds up: {seen:?}");
        for (what, total) in [
            ("connections_opened", seen.opened),
            ("sent_bytes", seen.sent),
            ("received_bytes", seen.received),
        ] {
            let of_classes = of(&format!("traffic_class_{what}_total"));
            assert_eq!(of_classes, total, "{what} of all classes: {seen:?}");
        }
        let failed: u64 = seen.failed.values().sum();
        assert_eq!(seen.closed.get("failed").copied().unwrap_or(0), failed, "{seen:?}");
        seen
    }
}

fn counts<const N: usize>(of: [(&str, u64); N]) -> BTreeMap<String, u64> {
    of.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Connections that were established and ended in one way.
fn ended(how: &str, count: u64) -> Seen {
    Seen {
        opened: count,
        closed: counts([(how, count)]),
        round_trips: count,
        lifetimes: count,
        ..Seen::default()
    }
}

/// Connections that failed for one reason.
fn failed(reason: &str, count: u64) -> Seen {
    Seen {
        opened: count,
        closed: counts([("failed", count)]),
        failed: counts([(reason, count)]),
        ..Seen::default()
    }
}

/// States of `include/net/tcp_states.h`.
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;

/// The state of a TCP socket.
fn state_of(socket: &impl AsRawFd) -> u8 {
    tcp_info(socket).tcpi_state
}

/// What the kernel says of a TCP socket.
fn tcp_info(socket: &impl AsRawFd) -> libc::tcp_info {
    // SAFETY: all zeroes is a value of a structure of integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointers are to live locals of the sizes that are given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    info
}

#[track_caller]
fn wait_for_state(socket: &impl AsRawFd, wanted: u8) {
    eventually(&format!("state {wanted}"), || match state_of(socket) {
        state if state == wanted => Ok(()),
        state => Err(state),
    });
}

/// Limits how often a socket sends its SYN again.
fn set_syn_count(socket: &Socket, count: libc::c_int) {
    // SAFETY: the pointer is to a live number of the size that is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SYNCNT,
            (&raw const count).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
}

/// Writes this many bytes at one end and reads them at the other.
fn transfer(from: &mut TcpStream, to: &mut TcpStream, count: usize) {
    from.write_all(&vec![7; count]).unwrap();
    to.read_exact(&mut vec![0; count]).unwrap();
}

/// Closes with a reset.
fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream, Linger, &linger).unwrap();
    drop(stream);
}

/// Reads until the other side has closed or reset, so that its packet has been here.
fn until_ended(stream: &mut TcpStream) -> io::Result<usize> {
    stream.read_to_end(&mut Vec::new())
}
