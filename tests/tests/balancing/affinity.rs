//! Session affinity: a client is a network namespace, and keeps its backend until it was idle.

use std::{
    collections::BTreeSet,
    hint,
    io::ErrorKind,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sockline_testbed::{
    Cluster, DEADLINE, Endpoint, Ns, Pod, Service, Socket, TcpServer, UdpClient, UdpServer, at,
    repetitions, wait_until,
};

const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00:96::1]:80";

struct StickyService {
    _servers: Vec<(TcpServer, UdpServer)>,
    pods: Vec<Pod>,
    client: Pod,
    cluster: Cluster,
}

impl StickyService {
    /// One service of eight pods: a chance hit is 1 in 8.
    fn new(seconds: u32) -> Self {
        let mut cluster = Cluster::new().unwrap();
        let client = cluster.pod("client").unwrap();
        let pods = cluster.pods("web", 8).unwrap();
        let serve = |pod: &Pod| (pod.tcp_server(8080).unwrap(), pod.udp_server(8080).unwrap());
        let servers = pods.iter().map(serve).collect();
        let mut this = Self { _servers: servers, pods, client, cluster };
        this.apply(seconds, |_| true);
        this
    }

    fn apply(&mut self, seconds: u32, wanted: impl Fn(&str) -> bool) {
        let service = web().sticky(seconds);
        let pods = self.pods.iter().filter(|pod| wanted(pod.name()));
        self.cluster.apply([service.endpoints(pods)]).unwrap();
    }

    /// The pods that `count` fresh sockets of a client get.
    fn seen(&self, client: &Ns, to: &str, count: usize) -> BTreeSet<String> {
        (0..count).map(|_| udp(client, to)).collect()
    }
}

fn web() -> Service {
    let service = Service::new("web").ip("10.96.0.1").ip("fd00:96::1");
    service.udp(80).to(8080).node_port(30_080).tcp(80).to(8080).node_port(30_080)
}

/// Who answers a fresh UDP socket.
fn udp(client: &Ns, to: &str) -> String {
    client.udp_ask(at(to), "x").unwrap().who
}

fn one(seen: BTreeSet<String>) -> String {
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.into_iter().next().unwrap()
}

#[test]
fn all_sockets_of_a_pod_get_the_same_backend() {
    let setup = StickyService::new(3600);
    one(setup.seen(&setup.client, V4, 50));
    let tcp: BTreeSet<_> = (0..20).map(|_| setup.client.tcp_ask(at(V4)).unwrap().who).collect();
    one(tcp);
}

#[test]
fn each_pod_chooses_for_itself() {
    let mut setup = StickyService::new(3600);
    let clients = setup.cluster.pods("other", 12).unwrap();
    let chosen: BTreeSet<String> =
        clients.iter().map(|client| one(setup.seen(client, V4, 10))).collect();
    assert!(chosen.len() > 1, "twelve clients of eight backends all got {chosen:?}");
}

#[test]
fn the_host_is_a_separate_client() {
    let setup = StickyService::new(3600);
    one(setup.seen(setup.cluster.node(), V4, 30));
}

#[test]
fn the_node_port_and_the_cluster_ip_share_their_affinity() {
    let setup = StickyService::new(3600);
    let mut seen = setup.seen(&setup.client, V4, 5);
    for to in ["192.0.2.10:30080", V4, "192.0.2.10:30080"] {
        seen.extend(setup.seen(&setup.client, to, 10));
    }
    one(seen);
    let host: &Ns = setup.cluster.node();
    let mut seen = setup.seen(host, V4, 10);
    // Before Linux 5.14 loopback is served to the initial network namespace alone.
    if setup.cluster.features().unwrap().netns_cookie {
        seen.extend(setup.seen(host, "127.0.0.1:30080", 10));
    } else {
        let client = host.run(|| UdpClient::connected(at("127.0.0.1:30080")).unwrap());
        let error = host.run(|| client.ask("x").unwrap_err());
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "the host's own: {error}");
    }
    one(seen);
}

#[test]
fn each_ip_family_has_its_own_backend() {
    let setup = StickyService::new(3600);
    for _ in 0..3 {
        one(setup.seen(&setup.client, V4, 10));
        one(setup.seen(&setup.client, V6, 10));
    }
}

#[test]
fn a_backend_that_is_removed_is_replaced_by_one_that_stays() {
    let mut setup = StickyService::new(3600);
    let first = one(setup.seen(&setup.client, V4, 10));
    setup.apply(3600, |name| name != first);
    let second = one(setup.seen(&setup.client, V4, 30));
    assert_ne!(second, first);
    setup.apply(3600, |_| true);
    assert_eq!(one(setup.seen(&setup.client, V4, 30)), second, "the first one is back");
}

#[test]
fn changes_of_other_endpoints_keep_the_backend() {
    let mut setup = StickyService::new(3600);
    let first = one(setup.seen(&setup.client, V4, 5));
    for round in 0..8 {
        let gone = format!("web-{round}");
        setup.apply(3600, |name| name == first || name != gone);
        assert_eq!(one(setup.seen(&setup.client, V4, 5)), first, "without {gone}");
    }
}

/// Lets time pass, without a socket call.
fn idle(time: Duration) {
    let since = Instant::now();
    let over = || (since.elapsed() >= time).then_some(());
    wait_until(DEADLINE, "time to pass", over).unwrap();
}

#[test]
fn a_client_that_was_idle_for_the_timeout_may_get_another_backend() {
    let setup = StickyService::new(1);
    let first = udp(&setup.client, V4);
    let rounds = (0..10).map(|_| {
        idle(Duration::from_millis(1100));
        udp(&setup.client, V4)
    });
    // Ten choices of eight are all the same in one run of a billion.
    let other = rounds.take_while(|who| *who == first).count();
    assert!(other < 10, "still {first} after {other} times");
}

#[test]
fn a_client_that_is_never_idle_for_the_timeout_keeps_its_backend() {
    let setup = StickyService::new(2);
    let mut last = (Instant::now(), udp(&setup.client, V4));
    let since = last.0;
    while since.elapsed() < Duration::from_secs(5) {
        idle(Duration::from_millis(100));
        let now = (Instant::now(), udp(&setup.client, V4));
        // A busy machine may have paused for as long as the timeout.
        let is_idle = last.0.elapsed() >= Duration::from_secs(2);
        assert!(
            is_idle || now.1 == last.1,
            "{}, then {} after {:?}",
            last.1,
            now.1,
            since.elapsed()
        );
        last = now;
    }
}

#[test]
fn a_client_that_was_idle_for_less_than_the_timeout_keeps_its_backend() {
    let setup = StickyService::new(3600);
    let first = udp(&setup.client, V4);
    idle(Duration::from_millis(1500));
    assert_eq!(one(setup.seen(&setup.client, V4, 30)), first);
}

#[test]
fn without_affinity_the_sockets_of_a_pod_spread() {
    let mut setup = StickyService::new(3600);
    setup.cluster.apply([web().endpoints(&setup.pods)]).unwrap();
    let seen = setup.seen(&setup.client, V4, 60);
    assert!(seen.len() > 4, "{seen:?}");
}

/// Services with affinity, each of four pods where no server listens: the tests look only at the backend that
/// the kernel chooses.
struct Races {
    cluster: Cluster,
    client: Pod,
    addresses: Vec<SocketAddr>,
}

const SERVICES: usize = 200;
const THREADS: usize = 2;

/// Endpoints that are no pods.
fn nobody(count: u8) -> Vec<Endpoint> {
    (1..=count).map(|n| Endpoint::at(&[[10, 244, 77, n].into()])).collect()
}

impl Races {
    fn new(seconds: u32) -> Self {
        let mut cluster = Cluster::new().unwrap();
        let client = cluster.pod("client").unwrap();
        let addresses: Vec<SocketAddr> =
            (1..=SERVICES).map(|n| at(&format!("10.96.5.{n}:80"))).collect();
        let services = addresses.iter().enumerate().map(|(n, address)| {
            let service = Service::new(&format!("race-{n}")).ip(&address.ip().to_string());
            service.udp(80).to(8080).sticky(seconds).endpoints(nobody(4))
        });
        cluster.apply(services.collect::<Vec<_>>()).unwrap();
        Self { cluster, client, addresses }
    }

    /// Connects to every service from several threads at once.
    fn run(&self) {
        let started = AtomicUsize::new(0);
        let connect_to_all = || {
            for (n, to) in self.addresses.iter().enumerate() {
                let socket = Socket::udp(libc::AF_INET).unwrap();
                started.fetch_add(1, Ordering::SeqCst);
                // Yielding would delay one of them.
                while started.load(Ordering::SeqCst) < (n + 1) * THREADS {
                    hint::spin_loop();
                }
                let _ = socket.connect(*to);
            }
        };
        self.client.run(|| {
            thread::scope(|threads| {
                (0..THREADS).for_each(|_| drop(threads.spawn(connect_to_all)));
            });
        });
    }

    /// How often each backend of each service was chosen.
    fn chosen(&self) -> Vec<Vec<u64>> {
        let listing = self.cluster.agent().cli(&["backends", "-o", "json"]).unwrap();
        let listing: Value = serde_json::from_str(&listing).unwrap();
        let services = listing["items"].as_array().unwrap();
        let counts = |service: &Value| {
            let backends = service["backends"].as_array().unwrap();
            backends.iter().map(|one| one["connections"].as_u64().unwrap()).collect()
        };
        services.iter().map(counts).collect()
    }
}

#[test]
fn threads_that_connect_for_the_first_time_at_once_get_the_same_backend() {
    let races = Races::new(3600);
    races.run();
    let chosen = races.chosen();
    assert_eq!(chosen.len(), SERVICES);
    let torn = chosen.iter().filter(|counts| counts.iter().filter(|&&n| n > 0).count() != 1);
    assert_eq!(torn.collect::<Vec<_>>(), Vec::<&Vec<u64>>::new());
    assert_eq!(chosen.iter().flatten().sum::<u64>(), (SERVICES * THREADS) as u64);
}

#[test]
fn threads_that_reconnect_at_once_after_the_timeout_get_the_same_backend() {
    // Longer than a busy machine delays one of two threads that connect at once.
    let races = Races::new(3);
    races.run();
    let before = races.chosen();
    idle(Duration::from_millis(3300));
    races.run();
    let after = races.chosen();
    let mut moved = 0;
    for (before, after) in before.iter().zip(&after) {
        let new: Vec<u64> =
            after.iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(new.iter().filter(|&&n| n > 0).count(), 1, "{before:?}, then {new:?}");
        moved +=
            usize::from(before.iter().zip(&new).all(|(before, new)| *before == 0 || *new == 0));
    }
    // Three in four get another backend: 20 or fewer of 200 in one run of 10^88.
    assert!(moved > 20, "only {moved} of {SERVICES} clients chose again");
}

/// Another CPU renewed the affinity after this one had read the clock: the difference underflowed, and
/// two threads of one pod spread over all ten backends.
#[test]
fn threads_that_connect_continuously_keep_their_backend() {
    const THREADS: usize = 4;
    let each = repetitions(20_000);
    let mut cluster = Cluster::new().unwrap();
    let client = cluster.pod("client").unwrap();
    let service = Service::new("web").ip("10.96.0.1").udp(80).to(8080).sticky(3600);
    cluster.apply([service.endpoints(nobody(10))]).unwrap();
    client.run(|| {
        thread::scope(|threads| {
            for _ in 0..THREADS {
                threads.spawn(|| {
                    let socket = Socket::udp(libc::AF_INET).unwrap();
                    (0..each).for_each(|_| drop(socket.connect(at(V4))));
                });
            }
        });
    });
    let races = Races { cluster, client, addresses: Vec::new() };
    let chosen: Vec<u64> = races.chosen().concat().into_iter().filter(|&n| n > 0).collect();
    assert_eq!(chosen, [(each * THREADS) as u64]);
}
