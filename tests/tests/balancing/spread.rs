//! How connects spread over backends, also during changes under load.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sockline_testbed::{
    Cluster, Pod, Protocol, Service, Task, TcpServer, UdpClient, UdpServer, wait_ok,
};

const A: &str = "10.96.0.1:53";
const B: &str = "10.96.0.2:53";

/// Pods of two services, and a client.
struct TwoServices {
    _servers: Vec<(UdpServer, TcpServer)>,
    a: Vec<Pod>,
    b: Vec<Pod>,
    client: Pod,
    cluster: Cluster,
}

impl TwoServices {
    fn new(a: usize, b: usize) -> Self {
        let mut cluster = Cluster::new().unwrap();
        let client = cluster.pod("client").unwrap();
        let (a, b) = (cluster.pods("a", a).unwrap(), cluster.pods("b", b).unwrap());
        let serve = |pod: &Pod| (pod.udp_server(53).unwrap(), pod.tcp_server(53).unwrap());
        let servers = a.iter().chain(&b).map(serve).collect();
        Self { _servers: servers, a, b, client, cluster }
    }
}

fn service<'a>(name: &str, pods: impl IntoIterator<Item = &'a Pod>) -> Service {
    let ip = if name == "a" { at(A) } else { at(B) }.ip().to_string();
    Service::new(name).ip(&ip).udp(53).tcp(53).endpoints(pods)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// How often each pod is hit by `count` connects of one UDP socket: each is a new choice.
fn spread(setup: &TwoServices, count: usize) -> BTreeMap<String, usize> {
    setup.client.run(|| {
        let client = UdpClient::connected(at(A)).unwrap();
        let mut hits = BTreeMap::new();
        for _ in 0..count {
            client.socket().connect(at(A)).unwrap();
            *hits.entry(client.ask("x").unwrap().who).or_default() += 1;
        }
        hits
    })
}

/// Pearson's statistic for "all equally likely", and the limit it passes once in a million runs
/// (Wilson and Hilferty's approximation; 4.75 is that quantile of the normal distribution).
fn chi_square(hits: &BTreeMap<String, usize>, backends: usize) -> (f64, f64) {
    let total: usize = hits.values().sum();
    let expected = total as f64 / backends as f64;
    let missing = (backends - hits.len()) as f64 * expected;
    let squares = hits.values().map(|count| (*count as f64 - expected).powi(2) / expected);
    let freedom = backends as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    let limit = freedom * (1.0 - spread + 4.75 * spread.sqrt()).powi(3);
    (squares.sum::<f64>() + missing, limit)
}

#[test]
fn connects_spread_evenly() {
    // 7 is no power of two: a choice by remainder or by bits would be biased.
    for backends in [2, 7] {
        let mut setup = TwoServices::new(backends, 0);
        setup.cluster.apply([service("a", &setup.a)]).unwrap();
        let hits = spread(&setup, 5000);
        let (found, limit) = chi_square(&hits, backends);
        assert!(found < limit, "chi-square {found:.1}, at most {limit:.1} expected: {hits:?}");
    }
}

#[test]
fn connects_still_spread_evenly_after_many_changes() {
    let mut setup = TwoServices::new(6, 0);
    setup.cluster.apply([service("a", &setup.a)]).unwrap();
    for n in 0..30 {
        let some = setup.a.iter().enumerate().filter(|(i, _)| (i + n) % 6 > n % 3);
        let some: Vec<_> = some.map(|(_, pod)| pod).collect();
        setup.cluster.change([service("a", some)]).unwrap();
    }
    setup.cluster.apply([service("a", &setup.a[1..])]).unwrap();
    let hits = spread(&setup, 4000);
    assert_eq!(hits.get("a-0"), None, "{hits:?}");
    let (found, limit) = chi_square(&hits, 5);
    assert!(found < limit, "chi-square {found:.1}, at most {limit:.1} expected: {hits:?}");
}

#[test]
fn consecutive_choices_do_not_follow_a_pattern() {
    let mut setup = TwoServices::new(4, 0);
    setup.cluster.apply([service("a", &setup.a)]).unwrap();
    let order: Vec<String> = setup.client.run(|| {
        let client = UdpClient::connected(at(A)).unwrap();
        let once = |_| {
            client.socket().connect(at(A)).unwrap();
            client.ask("x").unwrap().who
        };
        (0..3000).map(once).collect()
    });
    let mut pairs = BTreeMap::new();
    for pair in order.chunks_exact(2) {
        *pairs.entry(pair.concat()).or_default() += 1;
    }
    let (found, limit) = chi_square(&pairs, 16);
    assert!(found < limit, "chi-square {found:.1}, at most {limit:.1} expected: {pairs:?}");
}

/// Clients that connect without a pause until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    tasks: Vec<Task<Vec<String>>>,
}

impl Load {
    /// Each round calls `to` once and keeps the error that it returns.
    fn start(
        client: &Pod,
        targets: &[(&'static str, &'static str)],
        call: fn(SocketAddr) -> std::io::Result<String>,
    ) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = targets.iter().map(|(to, own)| {
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            let (to, own) = (at(to), *own);
            let work = move || {
                let mut wrong = Vec::new();
                while !stop.load(Ordering::Relaxed) && wrong.len() < 10 {
                    match call(to) {
                        Ok(who) if who.starts_with(own) => {}
                        Ok(who) => wrong.push(format!("{to} was answered by {who}")),
                        Err(error) => wrong.push(format!("{to}: {error}")),
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                wrong
            };
            client.spawn(work).unwrap()
        });
        let tasks = tasks.collect();
        Self { stop, calls, tasks }
    }

    /// Waits until the load has made `more` calls, so that calls happen during the changes.
    fn pass(&self, more: u64) {
        let start = self.calls.load(Ordering::Relaxed);
        wait_ok(Duration::from_secs(20), "the load to go on", || {
            let made = self.calls.load(Ordering::Relaxed) - start;
            let ended = self.tasks.iter().any(Task::is_finished);
            if made >= more || ended { Ok(()) } else { Err(format!("{made} calls")) }
        })
        .unwrap();
    }

    /// Stops the load, and fails with its errors.
    fn assert_clean(self) {
        self.stop.store(true, Ordering::Relaxed);
        let wrong: Vec<_> = self.tasks.into_iter().flat_map(Task::join).collect();
        let calls = self.calls.load(Ordering::Relaxed);
        assert!(wrong.is_empty(), "of {calls} calls: {wrong:#?}");
        assert!(calls > 500, "only {calls} calls");
    }
}

/// A refusal shows in `connect` or `send`. No answer after that is a lost datagram, which a busy machine
/// produces between pods as well: the request is repeated on the same socket.
fn udp(to: SocketAddr) -> std::io::Result<String> {
    let during = |what: &'static str| {
        move |error: std::io::Error| std::io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    let client = UdpClient::connected(to).map_err(during("connect"))?;
    if client.socket().peer_addr()? != to {
        return Err(std::io::Error::other(format!("its peer is {}", client.socket().peer_addr()?)));
    }
    let mut tries = 0;
    let reply = loop {
        client.socket().send(b"x").map_err(during("send"))?;
        tries += 1;
        match client.receive().map_err(during("receive")) {
            Ok(reply) => break reply,
            Err(error) if tries == 3 => return Err(error),
            Err(_) => {}
        }
    };
    if reply.from != to {
        return Err(std::io::Error::other(format!("the answer is from {}", reply.from)));
    }
    Ok(reply.who)
}

fn tcp(to: SocketAddr) -> std::io::Result<String> {
    let reply = sockline_testbed::tcp_ask(to)?;
    if reply.peer != to {
        return Err(std::io::Error::other(format!("its peer is {}", reply.peer)));
    }
    Ok(reply.who)
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
        setup.cluster.change([service("a", &setup.a[a]), service("b", &setup.b[b])]).unwrap();
        load.pass(20);
    }
}

#[test]
fn no_udp_connect_fails_during_a_hundred_changes_under_load() {
    let mut setup = TwoServices::new(4, 4);
    setup.cluster.apply([service("a", &setup.a), service("b", &setup.b)]).unwrap();
    let load = Load::start(&setup.client, &[(A, "a-"), (B, "b-")], udp);
    trade(&mut setup, &load, 100);
    load.assert_clean();
    assert_no_faults(&setup);
}

#[test]
fn no_tcp_connect_fails_during_changes_under_load() {
    let mut setup = TwoServices::new(4, 4);
    setup.cluster.apply([service("a", &setup.a), service("b", &setup.b)]).unwrap();
    let load = Load::start(&setup.client, &[(A, "a-"), (B, "b-")], tcp);
    trade(&mut setup, &load, 40);
    load.assert_clean();
    assert_no_faults(&setup);
}

#[test]
fn a_service_that_takes_over_an_address_never_reaches_the_old_services_pods() {
    // One address, two services in turn. A call gets the old service's pod or the new one's during the
    // change, and only the new one's after it.
    let mut setup = TwoServices::new(2, 2);
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
            let who = setup.client.run(|| udp(at(A))).unwrap();
            assert!(who.starts_with(own), "round {round}: {who}");
        }
    }
    load.assert_clean();
}

#[test]
fn no_connect_fails_while_other_services_are_created_and_deleted() {
    let mut setup = TwoServices::new(3, 2);
    setup.cluster.apply([service("a", &setup.a)]).unwrap();
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
    load.assert_clean();
    assert_no_faults(&setup);
}

#[test]
fn more_services_than_the_first_hash_holds_are_all_served() {
    // It has room for 4,096 and is replaced by a larger one while connects go on.
    let mut setup = TwoServices::new(2, 2);
    setup.cluster.apply([service("a", &setup.a)]).unwrap();
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
            assert_eq!(udp(address(n)).unwrap(), format!("b-{}", n % 2), "{}", address(n));
        }
    });
    load.assert_clean();
    assert_no_faults(&setup);
}
