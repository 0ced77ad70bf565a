//! A new socket for each call.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::Linger};

use super::{ClientContext, TIMEOUT, Target, UdpMode, observed};
use crate::chaos::{
    oracle::{Observed, PodId},
    results::Kind,
};

/// Between two calls of a thread: clients and agent share the machine.
const PAUSE: Duration = Duration::from_millis(4);

pub(super) fn tcp(context: &ClientContext, mut random: fastrand::Rng) {
    let mut affinities = Affinities::default();
    while context.continues() {
        let target = context.any_target(&mut random);
        let from = Instant::now();
        let answer = connect(target.tcp).and_then(|stream| {
            let peer = stream.peer_addr()?;
            let answer = greeting(&stream)?;
            // Closed with a reset: sockets in TIME_WAIT would use up the ports.
            setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
            Ok((answer, peer))
        });
        let until = Instant::now();
        if let Ok((answer, peer)) = &answer {
            check_peer(context, "TCP", target.tcp, *peer, answer, (from, until));
        }
        let got = observed(answer.map(|(answer, _)| answer));
        context.record(Kind::Tcp, target.service, (from, until), &got);
        if let (true, Observed::Answer { pod, .. }) = (target.is_sticky, &got) {
            affinities.check(context, target, *pod, (from, until));
        }
        thread::sleep(PAUSE);
    }
}

pub(super) fn udp(context: &ClientContext, mut random: fastrand::Rng) {
    while context.continues() {
        let target = context.any_target(&mut random);
        let mode = UdpMode::any(&mut random);
        let from = Instant::now();
        let answer = udp_socket(target.udp.ip()).and_then(|socket| {
            if mode == UdpMode::Connected {
                socket.connect(target.udp)?;
            }
            talk(&socket, target.udp, mode, "x")
        });
        let until = Instant::now();
        if let Ok((answer, peer)) = &answer {
            check_peer(context, "UDP", target.udp, *peer, answer, (from, until));
        }
        let got = observed(answer.map(|(answer, _)| answer));
        context.record(mode.kind(), target.service, (from, until), &got);
        thread::sleep(PAUSE);
    }
}

/// Of services with session affinity: the last pod that answered, and when the call began.
#[derive(Default)]
struct Affinities(HashMap<SocketAddr, (PodId, Instant)>);

impl Affinities {
    fn check(
        &mut self,
        context: &ClientContext,
        target: &Target,
        pod: PodId,
        (from, until): (Instant, Instant),
    ) {
        // Each family of a service has its own affinity.
        let Some((before, since)) = self.0.insert(target.tcp, (pod, from)) else { return };
        context.results.count("calls of clients with session affinity");
        if before != pod && context.oracle.must_have_kept(target.service, before, since, until) {
            let detail = format!("service {}: {before}, and now {pod}", target.service);
            context.results.violation("clients that lost their affinity", &detail);
        }
    }
}

/// The peer's address must be the address that the client called.
fn check_peer(
    context: &ClientContext,
    protocol: &str,
    called: SocketAddr,
    peer: SocketAddr,
    answer: &str,
    (from, until): (Instant, Instant),
) {
    // A change of layout between the call and getpeername() loses the socket's record.
    if peer != called && !context.oracle.was_damaged(from, until) {
        if context.oracle.layout_changed(from, until) {
            context
                .results
                .count("wrong peer addresses of sockets created during a change of layout");
        } else {
            let detail = format!("the peer of {protocol} {called} is {peer}, {answer:?} answered");
            context.results.violation("wrong peer addresses", &detail);
        }
    }
}

pub(in crate::chaos) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(in crate::chaos) fn greeting(stream: &TcpStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::with_capacity(64, stream).read_line(&mut line)?;
    if line.pop() != Some('\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the greeting"));
    }
    Ok(line)
}

pub(in crate::chaos) fn udp_socket(like: IpAddr) -> io::Result<UdpSocket> {
    let any = match like {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

/// Sends a datagram; returns the answer and its sender.
pub(in crate::chaos) fn talk(
    socket: &UdpSocket,
    to: SocketAddr,
    mode: UdpMode,
    payload: &str,
) -> io::Result<(String, SocketAddr)> {
    match mode {
        UdpMode::Connected => socket.send(payload.as_bytes())?,
        UdpMode::Unconnected => socket.send_to(payload.as_bytes(), to)?,
    };
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}
