//! Sockets that are held, and talk now and then.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{Around, Target, fresh, seen};
use crate::chaos::{
    ledger::Kind,
    world::{PodId, Seen, Verdict},
};

/// Sockets of a thread.
const HELD: usize = 48;
/// Between two calls of a thread.
const PAUSE: Duration = Duration::from_millis(6);
/// One in so many talks is the last one of its socket.
const LAST: u32 = 150;

struct Held<T> {
    socket: T,
    target: Target,
    pod: PodId,
    opened: Instant,
    /// The beginning of the last talk.
    talked: Instant,
    connected: bool,
}

pub(super) fn tcp(around: &Around, mut random: fastrand::Rng) {
    let mut held: Vec<Held<TcpStream>> = Vec::new();
    while around.goes_on() {
        thread::sleep(PAUSE);
        if held.len() < HELD {
            held.extend(open_tcp(around, around.any_target(&mut random)));
            continue;
        }
        let index = random.usize(..held.len());
        if !talk_tcp(around, &mut held[index]) || random.u32(..LAST) == 0 {
            held.swap_remove(index);
        }
    }
    // None was lost while nobody looked.
    for mut one in held {
        talk_tcp(around, &mut one);
    }
}

fn open_tcp(around: &Around, target: &Target) -> Option<Held<TcpStream>> {
    let opened = Instant::now();
    let said =
        fresh::connect(target.tcp).and_then(|stream| Ok((fresh::greeting(&stream)?, stream)));
    let (said, stream) = match said {
        Ok((said, stream)) => (Ok(said), Some(stream)),
        Err(error) => (Err(error), None),
    };
    let seen = seen(said);
    let now = Instant::now();
    let verdict = around.world.judge(target.service, opened, now, &seen);
    around.ledger.judged(Kind::Tcp, &verdict);
    let (Seen::Answer { pod, .. }, Some(socket)) = (seen, stream) else { return None };
    // What stands for kube-proxy keeps no connections.
    if around.world.was_bypassed(opened, now) {
        return None;
    }
    around.ledger.count("held sockets opened");
    let (target, talked) = (target.clone(), opened);
    Some(Held { socket, target, pod, opened, talked, connected: true })
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
fn talk_tcp(around: &Around, held: &mut Held<TcpStream>) -> bool {
    let said = echo(&held.socket);
    let now = Instant::now();
    let (pod, service) = (held.pod, held.target.service);
    let (verdict, goes_on) = match seen(said) {
        Seen::Answer { pod: who, service: what } if (who, what) == (pod, service) => {
            (Verdict::Right, true)
        }
        Seen::Error(_) if around.world.has_died(pod, held.opened, now) => {
            (Verdict::EndpointDead, false)
        }
        other => {
            let age = held.opened.elapsed();
            around.ledger.lost(
                Kind::HeldTcp,
                &format!("of service {service} at pod {pod}, {age:.1?} old: {other:?}"),
            );
            return false;
        }
    };
    around.ledger.judged(Kind::HeldTcp, &verdict);
    goes_on
}

pub(super) fn udp(around: &Around, mut random: fastrand::Rng) {
    let mut held: Vec<Held<UdpSocket>> = Vec::new();
    while around.goes_on() {
        thread::sleep(PAUSE);
        if held.len() < HELD {
            let connected = random.bool();
            held.extend(open_udp(around, around.any_target(&mut random), connected));
            continue;
        }
        let index = random.usize(..held.len());
        if !talk_udp(around, &mut held[index]) || random.u32(..LAST) == 0 {
            held.swap_remove(index);
        }
    }
    for mut one in held {
        talk_udp(around, &mut one);
    }
}

fn open_udp(around: &Around, target: &Target, connected: bool) -> Option<Held<UdpSocket>> {
    let opened = Instant::now();
    let opened_socket = fresh::udp_socket(target.udp.ip()).and_then(|socket| {
        if connected {
            socket.connect(target.udp)?;
        }
        let (said, _) = fresh::talk(&socket, target.udp, connected, "z")?;
        Ok((said, socket))
    });
    let (said, socket) = match opened_socket {
        Ok((said, socket)) => (Ok(said), Some(socket)),
        Err(error) => (Err(error), None),
    };
    let seen = seen(said);
    let now = Instant::now();
    let verdict = around.world.judge(target.service, opened, now, &seen);
    let kind = if connected { Kind::UdpConnected } else { Kind::UdpUnconnected };
    around.ledger.judged(kind, &verdict);
    let (Seen::Answer { pod, .. }, Some(socket)) = (seen, socket) else { return None };
    // What it remembers of such a time would excuse nothing later.
    if around.world.was_damaged(opened, now) || around.world.was_bypassed(opened, now) {
        return None;
    }
    around.ledger.count("held sockets opened");
    Some(Held { socket, target: target.clone(), pod, opened, talked: opened, connected })
}

fn talk_udp(around: &Around, held: &mut Held<UdpSocket>) -> bool {
    let was_calm = around.world.is_calm();
    let began = Instant::now();
    let said = fresh::talk(&held.socket, held.target.udp, held.connected, "z");
    let now = Instant::now();
    let seen = seen(said.map(|(said, _)| said));
    if held.connected {
        return judge_connected(around, held, &seen, was_calm, (began, now));
    }
    let (pod, service) = (held.pod, held.target.service);
    let verdict = around.world.judge(service, began, now, &seen);
    around.ledger.judged(Kind::HeldUdpUnconnected, &verdict);
    let Seen::Answer { pod: who, .. } = seen else { return false };
    if around.world.was_damaged(held.talked, now) || around.world.was_bypassed(held.talked, now) {
        return false;
    }
    if who != pod {
        if around.world.must_have_stayed(service, pod, held.talked, now) {
            around.ledger.lost(
                Kind::HeldUdpUnconnected,
                &format!("of service {service}: at pod {pod}, which is there, and now at {who}"),
            );
            return false;
        }
        around.ledger.count("unconnected UDP sockets that went on to another endpoint");
    }
    (held.pod, held.talked) = (who, began);
    true
}

/// A connected socket's datagrams go where its `connect()` led them.
fn judge_connected(
    around: &Around,
    held: &Held<UdpSocket>,
    seen: &Seen,
    was_calm: bool,
    (began, now): (Instant, Instant),
) -> bool {
    let (pod, service) = (held.pod, held.target.service);
    let removed = !around.world.was_there_all_the_time(service, pod, held.opened, now);
    let (verdict, goes_on) = match seen {
        Seen::Answer { pod: who, service: what } if (*who, *what) == (pod, service) => {
            if !around.world.may_be_endpoint(service, pod, began, now) {
                let what = "connected UDP sockets heard from an endpoint that was removed";
                // What another layout remembered of sockets is gone with it.
                if was_calm && !around.world.layout_changed(held.opened, now) {
                    let detail = format!(
                        "service {service}, pod {pod}, and all is calm; {:.1?} old",
                        held.opened.elapsed()
                    );
                    around.ledger.mistake(what, &detail);
                } else {
                    around.ledger.count(what);
                }
            }
            (Verdict::Right, true)
        }
        Seen::Error(_) if around.world.has_died(pod, held.opened, now) => {
            (Verdict::EndpointDead, false)
        }
        // The agent closes the sockets of endpoints that are gone.
        Seen::Error(error) if removed && error.kind() != io::ErrorKind::WouldBlock => {
            around.ledger.count("connected UDP sockets closed when their endpoint was removed");
            (Verdict::Right, false)
        }
        other => {
            let age = held.opened.elapsed();
            around.ledger.lost(
                Kind::HeldUdpConnected,
                &format!("of service {service} at pod {pod}, {age:.1?} old: {other:?}"),
            );
            return false;
        }
    };
    around.ledger.judged(Kind::HeldUdpConnected, &verdict);
    goes_on
}
