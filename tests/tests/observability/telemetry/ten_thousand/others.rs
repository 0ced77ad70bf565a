//! Connections that need more than a client that goes one way after the other.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    process::{Command, Stdio},
    thread,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{Backlog, MsgFlags, listen, send},
};
use sockline_testbed::{Pod, Protocol, Socket, repetitions};

use super::{
    super::{Seen, counts, ended, failed, family, set_syn_count},
    DEAD, DEAD_NUMBER, FULL, FULL_NUMBER, LARGE, LARGE_NUMBER, Mix, WEB, WEB_NUMBER,
    clients::{address, ask, go, read_answer},
    expected::{ANSWER, Expected, REQUEST, Way},
};
use crate::common::{eventually, holds};

const KILLED: usize = 10;
const TIMED_OUT: usize = 4;
const GIVEN_UP: usize = 90;
const OVER_MPTCP: usize = 30;
/// Few: the kernel limits the rate of its ICMP errors.
const REFUSED_DATAGRAMS: usize = 4;

const CHUNK: usize = 1 << 20;

/// 4 GiB and more, which needs more than 32 bits; less where the machine is emulated.
fn chunks() -> usize {
    repetitions(4_100)
}

/// What all of them add, but for MPTCP.
pub(super) fn add_to(expected: &mut Expected) {
    expected.add(WEB, Protocol::Tcp, &Way::ClientCloses.seen(KILLED));
    expected.add(FULL, Protocol::Tcp, &failed("timed-out", TIMED_OUT as u64));
    expected.add(FULL, Protocol::Tcp, &failed("given-up", GIVEN_UP as u64));
    let sent = (REQUEST + chunks() * CHUNK) as u64;
    let large = Seen { sent, received: ANSWER as u64, ..ended("client", 1) };
    expected.add(LARGE, Protocol::Tcp, &large);
    let count = REFUSED_DATAGRAMS as u64;
    let refused = Seen {
        opened: count,
        closed: counts([("failed", count)]),
        failed: counts([("refused", count)]),
        ..Seen::default()
    };
    expected.add(DEAD, Protocol::Udp, &refused);
}

/// A connection that is open for the whole test.
pub(super) fn open(mix: &Mix) -> TcpStream {
    let mut stream = mix.client.run(|| TcpStream::connect(address(WEB_NUMBER, 80, 1))).unwrap();
    ask(&mut stream, Way::ClientCloses);
    read_answer(&mut stream);
    stream
}

/// The process that has a connection is killed.
pub(super) fn killed(mix: &Mix) {
    for form in 0..KILLED {
        let mut stream =
            mix.client.run(|| TcpStream::connect(address(WEB_NUMBER, 80, form))).unwrap();
        ask(&mut stream, Way::ClientCloses);
        read_answer(&mut stream);
        // The command is dropped here, with its copy of the socket.
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdin(OwnedFd::from(stream))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// A listener whose queue is full: the kernel drops every SYN to it.
pub(super) fn full(mix: &Mix) -> (TcpListener, TcpStream) {
    mix.full.run(|| {
        let listener = TcpListener::bind("[::]:9999").unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let queued = TcpStream::connect("127.0.0.1:9999").unwrap();
        (listener, queued)
    })
}

/// At the same time, since each takes three seconds.
pub(super) fn time_out(client: &Pod) {
    thread::scope(|scope| {
        for form in 0..TIMED_OUT {
            scope.spawn(move || {
                client.run(|| {
                    let to = address(FULL_NUMBER, 80, form);
                    let socket = Socket::tcp(family(to)).unwrap();
                    set_syn_count(&socket, 1);
                    let error = socket.connect(to).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
                });
            });
        }
    });
}

pub(super) fn given_up(mix: &Mix) {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    mix.client.run(|| {
        for form in 0..GIVEN_UP {
            let to = address(FULL_NUMBER, 80, form);
            let socket = Socket::open(family(to), kind, libc::IPPROTO_TCP).unwrap();
            assert_eq!(socket.connect(to).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        }
    });
}

/// Returns how many there were: none where the kernel has no MPTCP, or does not show its sockets.
pub(super) fn mptcp(mix: &Mix) -> usize {
    if !mix.cluster.features().unwrap().mptcp_sock {
        return 0;
    }
    mix.client.run(|| {
        for form in 0..OVER_MPTCP {
            let to = address(WEB_NUMBER, 80, form);
            let Some(socket) = Socket::mptcp(family(to)).unwrap() else { return 0 };
            socket.connect(to).unwrap();
            go(socket.into_std(), Way::ClientCloses);
        }
        OVER_MPTCP
    })
}

pub(super) fn large_transfer(client: &Pod) {
    let mut stream = client.run(|| TcpStream::connect(address(LARGE_NUMBER, 80, 1))).unwrap();
    ask(&mut stream, Way::InFlight);
    read_answer(&mut stream);
    let chunk = vec![0; CHUNK];
    (0..chunks()).for_each(|_| stream.write_all(&chunk).unwrap());
}

pub(super) fn refused_datagrams(mix: &Mix) {
    for form in 0..REFUSED_DATAGRAMS {
        let to: SocketAddr = address(DEAD_NUMBER, 80, form);
        let socket = mix.client.run(|| Socket::udp(family(to))).unwrap();
        mix.client.run(|| socket.connect(to)).unwrap();
        // The kernel may leave out an ICMP error when it has just sent one.
        eventually("the ICMP error", || {
            match send(socket.as_raw_fd(), b"x", MsgFlags::empty()) {
                // This has fetched the error of an earlier datagram, which must stay with the socket.
                Ok(_) | Err(Errno::ECONNREFUSED) => {}
                Err(error) => panic!("{error}"),
            }
            let mut wait = [PollFd::new(std::os::fd::AsFd::as_fd(&socket), PollFlags::empty())];
            let ready = poll(&mut wait, PollTimeout::from(50_u8)).unwrap();
            holds(ready == 1, ready)
        });
    }
}
