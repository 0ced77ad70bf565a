//! Sockets that stay open and exchange messages at random times.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{ClientContext, Target, UdpMode, observed, short_lived};
use crate::chaos::{
    oracle::{Observed, PodId, Verdict},
    results::Kind,
};

/// Sockets per thread.
const SOCKETS: usize = 48;
/// Between two messages of a thread.
const PAUSE: Duration = Duration::from_millis(6);
/// One in this many messages is the last one of its socket.
const LAST: u32 = 150;

struct OpenSocket<T> {
    socket: T,
    target: Target,
    pod: PodId,
    opened: Instant,
    /// When the last exchange began.
    used: Instant,
    /// Of a TCP socket: connected.
    mode: UdpMode,
}

/// When an exchange of messages was.
struct Exchange {
    began: Instant,
    ended: Instant,
    /// All faults had ended before it began.
    after_faults: bool,
}

pub(super) fn tcp(context: &ClientContext, mut random: fastrand::Rng) {
    let mut open: Vec<OpenSocket<TcpStream>> = Vec::new();
    while context.continues() {
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
    // Finds sockets that were lost since their last message.
    for mut one in open {
        talk_tcp(context, &mut one);
    }
}

fn open_tcp(context: &ClientContext, target: &Target) -> Option<OpenSocket<TcpStream>> {
    let opened = Instant::now();
    let answer = short_lived::connect(target.tcp)
        .and_then(|stream| Ok((short_lived::greeting(&stream)?, stream)));
    let (answer, stream) = match answer {
        Ok((answer, stream)) => (Ok(answer), Some(stream)),
        Err(error) => (Err(error), None),
    };
    let got = observed(answer);
    let now = Instant::now();
    context.record(Kind::Tcp, target.service, (opened, now), &got);
    let (Observed::Answer { pod, .. }, Some(socket)) = (got, stream) else { return None };
    // The stand-in for kube-proxy closes connections at once.
    if context.oracle.was_bypassed(opened, now) {
        return None;
    }
    context.results.count("long-lived sockets opened");
    let (target, used) = (target.clone(), opened);
    Some(OpenSocket { socket, target, pod, opened, used, mode: UdpMode::Connected })
}

/// Sends something and returns the answer.
pub(in crate::chaos) fn echo(mut stream: &TcpStream) -> io::Result<String> {
    stream.write_all(b"y\n")?;
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Exchanges a message; returns whether the socket can be used again.
fn talk_tcp(context: &ClientContext, open: &mut OpenSocket<TcpStream>) -> bool {
    let answer = echo(&open.socket);
    let now = Instant::now();
    let (pod, service) = (open.pod, open.target.service);
    let (verdict, continues) = match observed(answer) {
        Observed::Answer { pod: who, service: what } if (who, what) == (pod, service) => {
            (Verdict::Correct, true)
        }
        Observed::Error(_) if context.oracle.was_dead(pod, open.opened, now) => {
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
    context.results.record(Kind::LongLivedTcp, &verdict);
    continues
}

pub(super) fn udp(context: &ClientContext, mut random: fastrand::Rng) {
    let mut open: Vec<OpenSocket<UdpSocket>> = Vec::new();
    while context.continues() {
        thread::sleep(PAUSE);
        if open.len() < SOCKETS {
            let mode = UdpMode::any(&mut random);
            open.extend(open_udp(context, context.any_target(&mut random), mode));
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
    mode: UdpMode,
) -> Option<OpenSocket<UdpSocket>> {
    let opened = Instant::now();
    let opened_socket = short_lived::udp_socket(target.udp.ip()).and_then(|socket| {
        if mode == UdpMode::Connected {
            socket.connect(target.udp)?;
        }
        let (answer, _) = short_lived::talk(&socket, target.udp, mode, "z")?;
        Ok((answer, socket))
    });
    let (answer, socket) = match opened_socket {
        Ok((answer, socket)) => (Ok(answer), Some(socket)),
        Err(error) => (Err(error), None),
    };
    let got = observed(answer);
    let now = Instant::now();
    context.record(mode.kind(), target.service, (opened, now), &got);
    let (Observed::Answer { pod, .. }, Some(socket)) = (got, socket) else { return None };
    // A socket from such a time would excuse later failures.
    if context.oracle.was_damaged(opened, now) || context.oracle.was_bypassed(opened, now) {
        return None;
    }
    context.results.count("long-lived sockets opened");
    Some(OpenSocket { socket, target: target.clone(), pod, opened, used: opened, mode })
}

fn talk_udp(context: &ClientContext, open: &mut OpenSocket<UdpSocket>) -> bool {
    let after_faults = context.oracle.faults_have_ended();
    let began = Instant::now();
    let answer = short_lived::talk(&open.socket, open.target.udp, open.mode, "z");
    let now = Instant::now();
    let got = observed(answer.map(|(answer, _)| answer));
    if open.mode == UdpMode::Connected {
        let exchange = Exchange { began, ended: now, after_faults };
        return check_connected(context, open, &got, &exchange);
    }
    let (pod, service) = (open.pod, open.target.service);
    let verdict = context.oracle.classify(service, began, now, &got);
    context.results.record(Kind::LongLivedUdpUnconnected, &verdict);
    let Observed::Answer { pod: who, .. } = got else { return false };
    if context.oracle.was_damaged(open.used, now) || context.oracle.was_bypassed(open.used, now) {
        return false;
    }
    if who != pod {
        if context.oracle.must_have_kept(service, pod, open.used, now) {
            context.results.lost(
                Kind::LongLivedUdpUnconnected,
                &format!("of service {service}: moved from pod {pod}, which is still an endpoint, to pod {who}"),
            );
            return false;
        }
        context.results.count("unconnected UDP sockets that moved to another endpoint");
    }
    (open.pod, open.used) = (who, began);
    true
}

/// A connected socket's datagrams go to the endpoint of its `connect()`.
fn check_connected(
    context: &ClientContext,
    open: &OpenSocket<UdpSocket>,
    got: &Observed,
    &Exchange { began, ended, after_faults }: &Exchange,
) -> bool {
    let (pod, service) = (open.pod, open.target.service);
    let removed = !context.oracle.was_always_endpoint(service, pod, open.opened, ended);
    let (verdict, continues) = match got {
        Observed::Answer { pod: who, service: what } if (*who, *what) == (pod, service) => {
            if !context.oracle.may_be_endpoint(service, pod, began, ended) {
                let what = "connected UDP sockets answered by a removed endpoint";
                // A change of layout loses the records of sockets, so the agent cannot find them.
                if after_faults && !context.oracle.layout_changed(open.opened, ended) {
                    let detail = format!(
                        "service {service}, pod {pod}, after the end of all faults; {:.1?} old",
                        open.opened.elapsed()
                    );
                    context.results.violation(what, &detail);
                } else {
                    context.results.count(what);
                }
            }
            (Verdict::Correct, true)
        }
        Observed::Error(_) if context.oracle.was_dead(pod, open.opened, ended) => {
            (Verdict::EndpointDead, false)
        }
        // The agent closes the sockets of removed endpoints.
        Observed::Error(error) if removed && error.kind() != io::ErrorKind::WouldBlock => {
            context.results.count("connected UDP sockets closed when their endpoint was removed");
            (Verdict::Correct, false)
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
    context.results.record(Kind::LongLivedUdpConnected, &verdict);
    continues
}
