//! Sockets that stay open and exchange messages now and then.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{ClientContext, Target, seen, short_lived};
use crate::chaos::{
    oracle::{PodId, Seen, Verdict},
    results::Kind,
};

/// Sockets of a thread.
const SOCKETS: usize = 48;
/// Between two calls of a thread.
const PAUSE: Duration = Duration::from_millis(6);
/// One in so many talks is the last one of its socket.
const LAST: u32 = 150;

struct OpenSocket<T> {
    socket: T,
    target: Target,
    pod: PodId,
    opened: Instant,
    /// The beginning of the last talk.
    talked: Instant,
    connected: bool,
}

pub(super) fn tcp(context: &ClientContext, mut random: fastrand::Rng) {
    let mut open: Vec<OpenSocket<TcpStream>> = Vec::new();
    while context.goes_on() {
        thread::sleep(PAUSE);
        if open.len() < SOCKETS {
            open.extend(open_tcp(context, context.any_target(&mut random)));
            continue;
        }
        let index = random.usize(..open.len());
        if !talk_tcp(context, &mut open[index]) || random.u32(..LAST) == 0 {
            open.swap_remove(index);
        }
    }
    // None was lost while nobody looked.
    for mut one in open {
        talk_tcp(context, &mut one);
    }
}

fn open_tcp(context: &ClientContext, target: &Target) -> Option<OpenSocket<TcpStream>> {
    let opened = Instant::now();
    let said = short_lived::connect(target.tcp)
        .and_then(|stream| Ok((short_lived::greeting(&stream)?, stream)));
    let (said, stream) = match said {
        Ok((said, stream)) => (Ok(said), Some(stream)),
        Err(error) => (Err(error), None),
    };
    let seen = seen(said);
    let now = Instant::now();
    let verdict = context.oracle.judge(target.service, opened, now, &seen);
    context.results.judged(Kind::Tcp, &verdict);
    let (Seen::Answer { pod, .. }, Some(socket)) = (seen, stream) else { return None };
    // What stands for kube-proxy keeps no connections.
    if context.oracle.was_bypassed(opened, now) {
        return None;
    }
    context.results.count("long-lived sockets opened");
    let (target, talked) = (target.clone(), opened);
    Some(OpenSocket { socket, target, pod, opened, talked, connected: true })
}

/// Says something and returns the answer.
pub(in crate::chaos) fn echo(mut stream: &TcpStream) -> io::Result<String> {
    stream.write_all(b"y\n")?;
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Whether it is good for another time.
fn talk_tcp(context: &ClientContext, open: &mut OpenSocket<TcpStream>) -> bool {
    let said = echo(&open.socket);
    let now = Instant::now();
    let (pod, service) = (open.pod, open.target.service);
    let (verdict, goes_on) = match seen(said) {
        Seen::Answer { pod: who, service: what } if (who, what) == (pod, service) => {
            (Verdict::Right, true)
        }
        Seen::Error(_) if context.oracle.has_died(pod, open.opened, now) => {
            (Verdict::EndpointDead, false)
        }
        other => {
            let age = open.opened.elapsed();
            context.results.lost(
                Kind::LongLivedTcp,
                &format!("of service {service} at pod {pod}, {age:.1?} old: {other:?}"),
            );
            return false;
        }
    };
    context.results.judged(Kind::LongLivedTcp, &verdict);
    goes_on
}

pub(super) fn udp(context: &ClientContext, mut random: fastrand::Rng) {
    let mut open: Vec<OpenSocket<UdpSocket>> = Vec::new();
    while context.goes_on() {
        thread::sleep(PAUSE);
        if open.len() < SOCKETS {
            let connected = random.bool();
            open.extend(open_udp(context, context.any_target(&mut random), connected));
            continue;
        }
        let index = random.usize(..open.len());
        if !talk_udp(context, &mut open[index]) || random.u32(..LAST) == 0 {
            open.swap_remove(index);
        }
    }
    for mut one in open {
        talk_udp(context, &mut one);
    }
}

fn open_udp(
    context: &ClientContext,
    target: &Target,
    connected: bool,
) -> Option<OpenSocket<UdpSocket>> {
    let opened = Instant::now();
    let opened_socket = short_lived::udp_socket(target.udp.ip()).and_then(|socket| {
        if connected {
            socket.connect(target.udp)?;
        }
        let (said, _) = short_lived::talk(&socket, target.udp, connected, "z")?;
        Ok((said, socket))
    });
    let (said, socket) = match opened_socket {
        Ok((said, socket)) => (Ok(said), Some(socket)),
        Err(error) => (Err(error), None),
    };
    let seen = seen(said);
    let now = Instant::now();
    let verdict = context.oracle.judge(target.service, opened, now, &seen);
    let kind = if connected { Kind::UdpConnected } else { Kind::UdpUnconnected };
    context.results.judged(kind, &verdict);
    let (Seen::Answer { pod, .. }, Some(socket)) = (seen, socket) else { return None };
    // What it remembers of such a time would excuse nothing later.
    if context.oracle.was_damaged(opened, now) || context.oracle.was_bypassed(opened, now) {
        return None;
    }
    context.results.count("long-lived sockets opened");
    Some(OpenSocket { socket, target: target.clone(), pod, opened, talked: opened, connected })
}

fn talk_udp(context: &ClientContext, open: &mut OpenSocket<UdpSocket>) -> bool {
    let was_calm = context.oracle.is_calm();
    let began = Instant::now();
    let said = short_lived::talk(&open.socket, open.target.udp, open.connected, "z");
    let now = Instant::now();
    let seen = seen(said.map(|(said, _)| said));
    if open.connected {
        return judge_connected(context, open, &seen, was_calm, (began, now));
    }
    let (pod, service) = (open.pod, open.target.service);
    let verdict = context.oracle.judge(service, began, now, &seen);
    context.results.judged(Kind::LongLivedUdpUnconnected, &verdict);
    let Seen::Answer { pod: who, .. } = seen else { return false };
    if context.oracle.was_damaged(open.talked, now) || context.oracle.was_bypassed(open.talked, now)
    {
        return false;
    }
    if who != pod {
        if context.oracle.must_have_stayed(service, pod, open.talked, now) {
            context.results.lost(
                Kind::LongLivedUdpUnconnected,
                &format!("of service {service}: at pod {pod}, which is there, and now at {who}"),
            );
            return false;
        }
        context.results.count("unconnected UDP sockets that went on to another endpoint");
    }
    (open.pod, open.talked) = (who, began);
    true
}

/// A connected socket's datagrams go where its `connect()` led them.
fn judge_connected(
    context: &ClientContext,
    open: &OpenSocket<UdpSocket>,
    seen: &Seen,
    was_calm: bool,
    (began, now): (Instant, Instant),
) -> bool {
    let (pod, service) = (open.pod, open.target.service);
    let removed = !context.oracle.was_there_all_the_time(service, pod, open.opened, now);
    let (verdict, goes_on) = match seen {
        Seen::Answer { pod: who, service: what } if (*who, *what) == (pod, service) => {
            if !context.oracle.may_be_endpoint(service, pod, began, now) {
                let what = "connected UDP sockets heard from an endpoint that was removed";
                // What another layout remembered of sockets is gone with it.
                if was_calm && !context.oracle.layout_changed(open.opened, now) {
                    let detail = format!(
                        "service {service}, pod {pod}, and all is calm; {:.1?} old",
                        open.opened.elapsed()
                    );
                    context.results.mistake(what, &detail);
                } else {
                    context.results.count(what);
                }
            }
            (Verdict::Right, true)
        }
        Seen::Error(_) if context.oracle.has_died(pod, open.opened, now) => {
            (Verdict::EndpointDead, false)
        }
        // The agent closes the sockets of endpoints that are gone.
        Seen::Error(error) if removed && error.kind() != io::ErrorKind::WouldBlock => {
            context.results.count("connected UDP sockets closed when their endpoint was removed");
            (Verdict::Right, false)
        }
        other => {
            let age = open.opened.elapsed();
            context.results.lost(
                Kind::LongLivedUdpConnected,
                &format!("of service {service} at pod {pod}, {age:.1?} old: {other:?}"),
            );
            return false;
        }
    };
    context.results.judged(Kind::LongLivedUdpConnected, &verdict);
    goes_on
}
