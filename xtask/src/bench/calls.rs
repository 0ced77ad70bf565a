//! The measured calls, in the node's cgroup and outside of it.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Instant,
};

use anyhow::Result;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, sendto, setsockopt,
    socket, sockopt::Linger,
};
use sockline_testbed::{Node, Ns};

/// Calls per round and side.
const CALLS: usize = 400;

#[derive(Clone, Copy)]
pub(super) enum Call {
    TcpConnect,
    TcpConnectElsewhere,
    TcpWhole,
    TcpClose,
    TcpCloseElsewhere,
    /// A byte each way on a connection that is open.
    TcpRequest,
    UdpConnect,
    UdpSend,
    UdpConnectRandom,
}

/// Medians of the rounds, in nanoseconds.
#[derive(Default)]
pub(super) struct Samples {
    pub(super) bare: Vec<i64>,
    pub(super) ours: Vec<i64>,
}

pub(super) struct Targets {
    pub(super) backend: SocketAddr,
    pub(super) service: SocketAddr,
    pub(super) all: Vec<SocketAddr>,
}

/// Listens at the backend's address. Accepts connections between the measurements, so that nothing else runs
/// during one.
pub(super) struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    pub(super) fn start(node: &Node) -> Result<Self> {
        let address = super::manifests::BACKEND;
        let server = node.outside().run(|| -> io::Result<Self> {
            let (tcp, udp) = (TcpListener::bind(address)?, UdpSocket::bind(address)?);
            nix::sys::socket::listen(&tcp, nix::sys::socket::Backlog::MAXCONN)?;
            tcp.set_nonblocking(true)?;
            udp.set_nonblocking(true)?;
            Ok(Self { tcp, udp })
        })?;
        Ok(server)
    }

    fn drain(&self) {
        while self.tcp.accept().is_ok() {}
        let mut byte = [0; 16];
        while self.udp.recv(&mut byte).is_ok() {}
    }
}

/// Measures a call on both sides. The order alternates.
pub(super) fn round(
    node: &Node,
    server: &Server,
    call: Call,
    targets: &Targets,
    samples: &mut Samples,
) -> io::Result<()> {
    let direct = [targets.backend];
    let one = [targets.service];
    let elsewhere: Vec<SocketAddr> = targets
        .all
        .iter()
        // As many destinations as services, none of which is a service.
        .map(|service| SocketAddr::new(service.ip(), service.port() + 1))
        .collect();
    let (bare_targets, our_targets): (&[SocketAddr], &[SocketAddr]) = match call {
        Call::TcpConnectElsewhere | Call::TcpCloseElsewhere => (&direct, &direct),
        Call::UdpConnectRandom => (&elsewhere, &targets.all),
        _ => (&direct, &one),
    };
    let sides: [(&Ns, &[SocketAddr], bool); 2] =
        [(node.outside(), bare_targets, false), (node, our_targets, true)];
    let first = samples.bare.len() % 2;
    for side in [first, 1 - first] {
        let (ns, targets, ours) = sides[side];
        let mut durations = if matches!(call, Call::TcpRequest) {
            ns.run(|| requests(server, targets[0]))?
        } else {
            ns.run(|| calls(call, targets))?
        };
        server.drain();
        durations.sort_unstable();
        let middle = durations[durations.len() / 2];
        if ours { samples.ours.push(middle) } else { samples.bare.push(middle) }
    }
    Ok(())
}

pub(super) fn median(values: &[i64]) -> i64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

fn calls(call: Call, targets: &[SocketAddr]) -> io::Result<Vec<i64>> {
    let addresses: Vec<SockaddrStorage> = targets.iter().map(|&target| target.into()).collect();
    let mut durations = Vec::with_capacity(CALLS);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let shared = fresh(SockType::Datagram)?;
    for number in 0..CALLS + CALLS / 4 {
        // xorshift64 (G. Marsaglia, 2003): services in random order.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let address = &addresses[usize::try_from(random >> 33).unwrap_or(0) % addresses.len()];
        let took = match call {
            Call::TcpConnect | Call::TcpConnectElsewhere => {
                let socket = fresh(SockType::Stream)?;
                abort_on_close(&socket)?;
                let began = Instant::now();
                connect(socket.as_raw_fd(), address)?;
                began.elapsed()
            }
            Call::TcpWhole => {
                let began = Instant::now();
                let socket = fresh(SockType::Stream)?;
                abort_on_close(&socket)?;
                connect(socket.as_raw_fd(), address)?;
                drop(socket);
                began.elapsed()
            }
            Call::TcpClose | Call::TcpCloseElsewhere => {
                let socket = fresh(SockType::Stream)?;
                abort_on_close(&socket)?;
                connect(socket.as_raw_fd(), address)?;
                let began = Instant::now();
                drop(socket);
                began.elapsed()
            }
            Call::UdpConnect | Call::UdpConnectRandom => {
                let began = Instant::now();
                connect(shared.as_raw_fd(), address)?;
                began.elapsed()
            }
            Call::TcpRequest => unreachable!("see `requests`"),
            Call::UdpSend => {
                let began = Instant::now();
                sendto(shared.as_raw_fd(), b"x", address, MsgFlags::empty())?;
                began.elapsed()
            }
        };
        // The first calls warm the caches.
        if number >= CALLS / 4 {
            durations.push(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX));
        }
    }
    Ok(durations)
}

/// Both ends of the connection are in this thread: nothing else runs.
fn requests(server: &Server, target: SocketAddr) -> io::Result<Vec<i64>> {
    let mut client = TcpStream::connect(target)?;
    let (mut accepted, _) = server.tcp.accept()?;
    accepted.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    let mut byte = [0];
    let mut durations = Vec::with_capacity(CALLS);
    for number in 0..CALLS + CALLS / 4 {
        let began = Instant::now();
        client.write_all(&byte)?;
        accepted.read_exact(&mut byte)?;
        accepted.write_all(&byte)?;
        client.read_exact(&mut byte)?;
        let took = began.elapsed();
        if number >= CALLS / 4 {
            durations.push(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX));
        }
    }
    Ok(durations)
}

fn fresh(kind: SockType) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Closes with a reset, so that no port stays in TIME_WAIT.
fn abort_on_close(socket: &OwnedFd) -> io::Result<()> {
    Ok(setsockopt(socket, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}
