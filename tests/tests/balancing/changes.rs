//! No connect fails or reaches another service while services and their endpoints change under load.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::ensure;
use sockline_testbed::{
    Cluster, DEADLINE, Pod, Protocol, Service, Task, TwoServices, UdpClient, at, wait_ok,
};

const A: &str = TwoServices::A;
const B: &str = TwoServices::B;

/// A load of fewer calls shows nothing.
const MIN_CALLS: u64 = 501;

/// Clients that connect without a pause until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    /// Sockets that the agent closed during a call.
    closed: Arc<AtomicU64>,
    tasks: Vec<Task<Vec<String>>>,
}

impl Load {
    /// Each round calls `to` once and keeps the error that it returns.
    fn start(
        client: &Pod,
        targets: &[(&'static str, &'static str)],
        call: fn(SocketAddr) -> io::Result<Answer>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (calls, closed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let tasks = targets.iter().map(|(to, own)| {
            let (stop, calls, closed) =
                (Arc::clone(&stop), Arc::clone(&calls), Arc::clone(&closed));
            let (to, own) = (at(to), *own);
            let work = move || {
                let mut wrong = Vec::new();
                while !stop.load(Ordering::Relaxed) && wrong.len() < 10 {
                    match call(to) {
                        Ok(answer) => {
                            closed.fetch_add(answer.closed, Ordering::Relaxed);
                            if !answer.who.starts_with(own) {
                                wrong.push(format!("{to} was answered by {}", answer.who));
                            }
                        }
                        Err(error) => wrong.push(format!("{to}: {error}")),
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                wrong
            };
            client.spawn(work).unwrap()
        });
        let tasks = tasks.collect();
        Self { stop, calls, closed, tasks }
    }

    /// Waits until the load has made `more` calls, so that calls happen during the changes.
    fn pass(&self, more: u64) {
        let start = self.calls.load(Ordering::Relaxed);
        wait_ok(DEADLINE, "the load to go on", || {
            let made = self.calls.load(Ordering::Relaxed) - start;
            let ended = self.tasks.iter().any(Task::is_finished);
            if made >= more || ended { Ok(()) } else { Err(format!("{made} calls")) }
        })
        .unwrap();
    }

    /// Stops the load, and fails with its errors. Sockets that were closed are those that the agent says it closed.
    fn assert_clean(self, cluster: &Cluster) {
        // The changes may have been quicker than the load.
        self.pass(MIN_CALLS.saturating_sub(self.calls.load(Ordering::Relaxed)));
        self.stop.store(true, Ordering::Relaxed);
        let wrong: Vec<_> = self.tasks.into_iter().flat_map(Task::join).collect();
        let calls = self.calls.load(Ordering::Relaxed);
        assert!(wrong.is_empty(), "of {calls} calls: {wrong:#?}");
        let closed = self.closed.load(Ordering::Relaxed);
        wait_ok(DEADLINE, "the agent to count the sockets that it closed", || {
            let counted = cluster.status()?["agent"]["termination"]["udpSocketsClosed"].take();
            ensure!(counted.as_u64() >= Some(closed), "{closed} were closed, it counts {counted}");
            Ok(())
        })
        .unwrap();
    }
}

/// The answer to a call.
struct Answer {
    /// The pod that answered.
    who: String,
    /// How often the agent closed the socket during the call.
    closed: u64,
}

/// How often a call connects again. More would be sockets that are closed although their backend is there.
const MAX_CLOSES: u64 = 3;

/// Asks over a connected socket. If the agent closes the socket, because its backend was removed after the connect,
/// connects again, as an application must (`deploy/docs/reliability.md`). On a busy machine a call takes long enough.
fn udp(to: SocketAddr) -> io::Result<Answer> {
    let client = UdpClient::unconnected(to.ip())?;
    let mut closed = 0;
    loop {
        client.socket().connect(to).map_err(|error| during("connect", &error))?;
        match ask(&client, to) {
            Ok(who) => return Ok(Answer { who, closed }),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted && closed < MAX_CLOSES => {
                closed += 1;
                // `send` and `getpeername` leave ECONNABORTED for the next `recv`.
                client.socket().take_error()?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A refusal shows in `connect` or `send`. No answer after that is a lost datagram, which a busy machine
/// produces between pods as well: the request is repeated on the same socket.
fn ask(client: &UdpClient, to: SocketAddr) -> io::Result<String> {
    let peer = client.socket().peer_addr().map_err(|error| during("getpeername", &error))?;
    if peer != to {
        return Err(io::Error::other(format!("its peer is {peer}")));
    }
    let mut tries = 0;
    let reply = loop {
        client.socket().send(b"x").map_err(|error| during("send", &error))?;
        tries += 1;
        match client.receive() {
            Ok(reply) => break reply,
            Err(error) if error.kind() == ErrorKind::WouldBlock && tries < 3 => {}
            Err(error) => return Err(during("receive", &error)),
        }
    };
    if reply.from != to {
        return Err(io::Error::other(format!("the answer is from {}", reply.from)));
    }
    Ok(reply.who)
}

/// An error with the call that returned it. It is a `ConnectionAborted` if it says that the agent closed the socket:
/// `udp_abort` in the kernel's net/ipv4/udp.c leaves ECONNABORTED for `recv`, and disconnects the socket, so `send`
/// returns EDESTADDRREQ and `getpeername` ENOTCONN.
fn during(call: &str, error: &io::Error) -> io::Error {
    let of_closed = match call {
        "receive" => Some(libc::ECONNABORTED),
        "send" => Some(libc::EDESTADDRREQ),
        "getpeername" => Some(libc::ENOTCONN),
        _ => None,
    };
    let is_closed = of_closed.is_some() && error.raw_os_error() == of_closed;
    let kind = if is_closed { ErrorKind::ConnectionAborted } else { error.kind() };
    io::Error::new(kind, format!("{call}: {error}"))
}

fn tcp(to: SocketAddr) -> io::Result<Answer> {
    let reply = sockline_testbed::tcp_ask(to)?;
    if reply.peer != to {
        return Err(io::Error::other(format!("its peer is {}", reply.peer)));
    }
    Ok(Answer { who: reply.who, closed: 0 })
}

/// No call may fail open because an entry changed twice while the program read it.
fn assert_no_faults(setup: &TwoServices) {
    for name in ["a", "b"] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let counts = setup.cluster.counts(name, protocol).unwrap();
            assert_eq!(counts.failed_open, 0, "{name} {protocol}: {counts:?}");
            assert_eq!(counts.no_endpoints, 0, "{name} {protocol}: {counts:?}");
        }
    }
    setup.cluster.wait_for_sockets(0).unwrap();
}

/// Two services that alternate between one pod and three: each gets the entries that the other frees.
fn trade(setup: &mut TwoServices, load: &Load, rounds: usize) {
    for round in 0..rounds {
        let (few, many) = (round % 4..round % 4 + 1, (round + 1) % 2..(round + 1) % 2 + 3);
        let (a, b) = if round % 2 == 0 { (few, many) } else { (many, few) };
        setup.cluster.change([TwoServices::a(&setup.a[a]), TwoServices::b(&setup.b[b])]).unwrap();
        load.pass(20);
    }
}

#[test]
fn no_udp_connect_fails_during_a_hundred_changes_under_load() {
    let mut setup = TwoServices::new(4, 4).unwrap();
    setup.cluster.apply([TwoServices::a(&setup.a), TwoServices::b(&setup.b)]).unwrap();
    let load = Load::start(&setup.client, &[(A, "a-"), (B, "b-")], udp);
    trade(&mut setup, &load, 100);
    load.assert_clean(&setup.cluster);
    assert_no_faults(&setup);
}

#[test]
fn no_tcp_connect_fails_during_changes_under_load() {
    let mut setup = TwoServices::new(4, 4).unwrap();
    setup.cluster.apply([TwoServices::a(&setup.a), TwoServices::b(&setup.b)]).unwrap();
    let load = Load::start(&setup.client, &[(A, "a-"), (B, "b-")], tcp);
    trade(&mut setup, &load, 40);
    load.assert_clean(&setup.cluster);
    assert_no_faults(&setup);
}

#[test]
fn a_service_that_takes_over_an_address_never_reaches_the_old_services_pods() {
    // One address, two services in turn. A call gets the old service's pod or the new one's during the
    // change, and only the new one's after it.
    let mut setup = TwoServices::new(2, 2).unwrap();
    let as_a = |name: &str, pods: &[Pod]| {
        Service::new(name).ip("10.96.0.1").udp(53).tcp(53).endpoints(pods)
    };
    setup.cluster.apply([as_a("first", &setup.a)]).unwrap();
    let load = Load::start(&setup.client, &[(A, "")], udp);
    for round in 0..10 {
        let (name, own, pods) = match round % 2 {
            0 => ("second", "b-", &setup.b),
            _ => ("first", "a-", &setup.a),
        };
        // Both exist for a moment: the address stays with the older service until that is deleted.
        setup.cluster.apply([as_a(name, pods)]).unwrap();
        setup.cluster.remove(if round % 2 == 0 { "first" } else { "second" }).unwrap();
        for _ in 0..20 {
            let who = setup.client.run(|| udp(at(A))).unwrap().who;
            assert!(who.starts_with(own), "round {round}: {who}");
        }
    }
    load.assert_clean(&setup.cluster);
}

#[test]
fn no_connect_fails_while_other_services_are_created_and_deleted() {
    let mut setup = TwoServices::new(3, 2).unwrap();
    setup.cluster.apply([TwoServices::a(&setup.a)]).unwrap();
    let load = Load::start(&setup.client, &[(A, "a-")], udp);
    for round in 0..20 {
        let others = (0..20).map(|n| {
            let other = Service::new(&format!("other-{n}")).ip(&format!("10.96.3.{n}"));
            other.udp(53).endpoints(setup.b.iter().skip((round + n) % 2))
        });
        setup.cluster.change(others.collect::<Vec<_>>()).unwrap();
        load.pass(10);
        for n in 0..20 {
            setup.cluster.forget(&format!("other-{n}"));
        }
        setup.cluster.change([]).unwrap();
        load.pass(10);
    }
    load.assert_clean(&setup.cluster);
    assert_no_faults(&setup);
}

#[test]
fn more_services_than_the_first_hash_holds_are_all_served() {
    // It has room for 4,096 and is replaced by a larger one while connects go on.
    let mut setup = TwoServices::new(2, 2).unwrap();
    setup.cluster.apply([TwoServices::a(&setup.a)]).unwrap();
    let load = Load::start(&setup.client, &[(A, "a-")], udp);
    let address = |n: u16| {
        let [high, low] = n.to_be_bytes();
        SocketAddr::from(([10, 97, high, low], 53))
    };
    let many = (0..5000).map(|n| {
        let service = Service::new(&format!("many-{n}")).ip(&address(n).ip().to_string());
        service.udp(53).endpoints([&setup.b[usize::from(n % 2)]])
    });
    setup.cluster.apply(many.collect::<Vec<_>>()).unwrap();
    setup.client.run(|| {
        for n in (0..5000).step_by(37) {
            assert_eq!(udp(address(n)).unwrap().who, format!("b-{}", n % 2), "{}", address(n));
        }
    });
    load.assert_clean(&setup.cluster);
    assert_no_faults(&setup);
}
