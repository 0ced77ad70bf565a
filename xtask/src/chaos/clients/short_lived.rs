//! One socket for one call.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::Linger};

use super::{ClientContext, PATIENCE, Target, seen};
use crate::chaos::{
    oracle::{PodId, Seen},
    results::Kind,
};

/// Between two calls of a thread: all of them share the machine with the agent.
const PAUSE: Duration = Duration::from_millis(4);

pub(super) fn tcp(context: &ClientContext, mut random: fastrand::Rng) {
    let mut affinities = Affinities::default();
    while context.goes_on() {
        let target = context.any_target(&mut random);
        let from = Instant::now();
        let said = connect(target.tcp).and_then(|stream| {
            let peer = stream.peer_addr()?;
            let said = greeting(&stream)?;
            // Closed with a reset: sockets in TIME_WAIT would use up the ports.
            setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
            Ok((said, peer))
        });
        let until = Instant::now();
        if let Ok((said, peer)) = &said {
            check_peer(context, "TCP", target.tcp, *peer, said, (from, until));
        }
        let seen = seen(said.map(|(said, _)| said));
        context
            .results
            .judged(Kind::Tcp, &context.oracle.judge(target.service, from, until, &seen));
        if let (true, Seen::Answer { pod, .. }) = (target.is_sticky, &seen) {
            affinities.check(context, target, *pod, (from, until));
        }
        thread::sleep(PAUSE);
    }
}

pub(super) fn udp(context: &ClientContext, mut random: fastrand::Rng) {
    while context.goes_on() {
        let target = context.any_target(&mut random);
        let connected = random.bool();
        let kind = if connected { Kind::UdpConnected } else { Kind::UdpUnconnected };
        let from = Instant::now();
        let said = udp_socket(target.udp.ip()).and_then(|socket| {
            if connected {
                socket.connect(target.udp)?;
            }
            talk(&socket, target.udp, connected, "x")
        });
        let until = Instant::now();
        if let Ok((said, peer)) = &said {
            check_peer(context, "UDP", target.udp, *peer, said, (from, until));
        }
        let seen = seen(said.map(|(said, _)| said));
        context.results.judged(kind, &context.oracle.judge(target.service, from, until, &seen));
        thread::sleep(PAUSE);
    }
}

/// Where this pod was answered last by services with session affinity, and since when for sure.
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
        // The two families of a service have affinities of their own.
        let Some((before, since)) = self.0.insert(target.tcp, (pod, from)) else { return };
        context.results.count("calls of clients that a service has affinity for");
        if before != pod && context.oracle.must_have_stayed(target.service, before, since, until) {
            let detail = format!("service {}: {before}, and now {pod}", target.service);
            context.results.mistake("clients that lost their affinity", &detail);
        }
    }
}

/// The other side must be called what was called.
fn check_peer(
    context: &ClientContext,
    protocol: &str,
    called: SocketAddr,
    peer: SocketAddr,
    said: &str,
    (from, until): (Instant, Instant),
) {
    // Between the translation and the look at it the memory of sockets may be a new layout's.
    if peer != called && !context.oracle.was_damaged(from, until) {
        if context.oracle.layout_changed(from, until) {
            context.results.count("wrong peer names of sockets made during a change of layout");
        } else {
            let detail = format!("{protocol} {called} is called {peer}, {said:?} answered");
            context.results.mistake("wrong peer names", &detail);
        }
    }
}

pub(in crate::chaos) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(in crate::chaos) fn greeting(stream: &TcpStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::with_capacity(64, stream).read_line(&mut line)?;
    if line.pop() != Some('\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before it was greeted"));
    }
    Ok(line)
}

pub(in crate::chaos) fn udp_socket(like: IpAddr) -> io::Result<UdpSocket> {
    let any = match like {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// One datagram and its answer, with where that came from.
pub(in crate::chaos) fn talk(
    socket: &UdpSocket,
    to: SocketAddr,
    connected: bool,
    payload: &str,
) -> io::Result<(String, SocketAddr)> {
    if connected {
        socket.send(payload.as_bytes())?;
    } else {
        socket.send_to(payload.as_bytes(), to)?;
    }
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}
