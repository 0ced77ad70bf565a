//! Connections that need more than a client that goes one way after the other.

use std::{
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
use sockline_testbed::{Pod, Protocol, Socket};

use super::{
    super::{Seen, counts, failed, family, set_syn_count, tcp_info},
    DEAD, DEAD_NUMBER, FULL, FULL_NUMBER, Mix, WEB, WEB_NUMBER,
    clients::{address, ask, read_answer},
    expected::{Expected, Way},
};
use crate::common::{eventually, holds};

const KILLED: usize = 10;
pub(super) const TIMED_OUT: usize = 4;
const GIVEN_UP: usize = 90;
const GIVEN_UP_LATE: usize = 6;
/// Few: the kernel limits the rate of its ICMP errors.
const REFUSED_DATAGRAMS: usize = 4;

/// What all of them add.
pub(super) fn add_to(expected: &mut Expected) {
    expected.add(WEB, Protocol::Tcp, &Way::ClientCloses.seen(KILLED));
    expected.add(FULL, Protocol::Tcp, &failed("timed-out", TIMED_OUT as u64));
    expected.add(FULL, Protocol::Tcp, &failed("given-up", (GIVEN_UP + GIVEN_UP_LATE) as u64));
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
    mix.client.run(|| (0..GIVEN_UP).for_each(|form| drop(dial_full(form))));
}

/// Connects that their clients give up once the kernel has sent their SYN again. Returns how often it has.
pub(super) fn given_up_late(mix: &Mix) -> u64 {
    let sockets: Vec<Socket> = mix.client.run(|| (0..GIVEN_UP_LATE).map(dial_full).collect());
    let retransmitted = |socket: &Socket| u64::from(tcp_info(socket).tcpi_total_retrans);
    eventually("each SYN to be sent again", || {
        let counts: Vec<u64> = sockets.iter().map(retransmitted).collect();
        holds(!counts.contains(&0), format!("{counts:?}"))
    });
    let close = |socket: Socket| {
        let count = retransmitted(&socket);
        drop(socket);
        count
    };
    sockets.into_iter().map(close).sum()
}

/// Begins to connect to what never answers.
fn dial_full(form: usize) -> Socket {
    let to = address(FULL_NUMBER, 80, form);
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    let socket = Socket::open(family(to), kind, libc::IPPROTO_TCP).unwrap();
    assert_eq!(socket.connect(to).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
    socket
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
