//! Ten thousand connections of all kinds in one run, from several threads and processes: each counter equals what the
//! applications counted on both sides, for each service and for each backend.
//!
//! [`clients`] make connections, each of a [`Way`] that it asks the server for; [`servers`] answer, and count by
//! backend; [`expected`] says what each way adds to the counters; [`large`], [`mptcp`] and [`others`] are the connections that
//! need more than that. [`events`] are what `sockline watch` shows of all of them, and [`pace`] keeps clients from being faster
//! than it.

mod clients;
mod events;
mod expected;
mod large;
mod mptcp;
mod others;
mod pace;
mod servers;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read as _, Write as _, stdin},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
};

use sockline_testbed::{Cluster, Pod, Protocol, Service, repetitions};

use self::{
    expected::{Expected, Way},
    pace::Pace,
    servers::{OfBackend, Servers},
};
use super::{
    Seen,
    watch::{LOSSES, Watch, lost},
};
use crate::common::{end_of, eventually, holds};

/// A service, and the number in its addresses.
const WEB: &str = "web";
const WEB_NUMBER: u8 = 1;
/// Both sides close at the same time: which is first is not known.
const RACE: &str = "race";
const RACE_NUMBER: u8 = 2;
/// Nothing listens there.
const DEAD: &str = "dead";
const DEAD_NUMBER: u8 = 3;
/// The kernel drops each SYN.
const FULL: &str = "full";
const FULL_NUMBER: u8 = 4;
const LARGE: &str = "large";
const LARGE_NUMBER: u8 = 5;
/// Over UDP.
const DNS: &str = "dns";
const DNS_NUMBER: u8 = 6;
/// Without an endpoint.
const NONE: &str = "none";
const NONE_NUMBER: u8 = 7;
const MPTCP: &str = "mptcp";
const MPTCP_NUMBER: u8 = 8;

const WEB_PORT: u16 = 8080;
const RACE_PORT: u16 = 8081;
const LARGE_PORT: u16 = 8082;
const MPTCP_PORT: u16 = 8083;
const DNS_PORT: u16 = 8053;

const THREADS: usize = 6;
const PROCESSES: usize = 2;
/// Of each thread and process. All of them make 10,000 connections.
const ROUNDS: usize = 84;

/// For the process that is a client: how many rounds it makes.
const ROUNDS_OF_PROCESS: &str = "SOCKLINE_TEST_ROUNDS";
const PROCESS: &str = "telemetry::ten_thousand::a_client_in_a_process_of_its_own";

/// The pods and services. Fields are dropped in this order.
struct Mix {
    client: Pod,
    /// Its connects time out.
    patient: Pod,
    servers: Servers,
    dead: Vec<Pod>,
    full: Pod,
    cluster: Cluster,
}

impl Mix {
    fn new() -> Self {
        // Nothing is counted while it is open: a SYN that is sent again would be, which the kernel has forgotten at the end.
        let mut cluster = Cluster::with_agent_args(&["--open-connections-interval", "1h"]).unwrap();
        let pods = cluster.pods("web", 2).unwrap();
        let dead = cluster.pods("dead", 2).unwrap();
        let full = cluster.pod("full").unwrap();
        let client = cluster.pod("client").unwrap();
        let patient = cluster.pod("patient").unwrap();
        let named = |name: &str, number: u8| {
            Service::new(name).ip(&format!("10.96.0.{number}")).ip(&format!("fd00:96::{number}"))
        };
        cluster
            .apply([
                named(WEB, WEB_NUMBER).tcp(80).to(WEB_PORT).endpoints(&pods),
                named(RACE, RACE_NUMBER).tcp(80).to(RACE_PORT).endpoints(&pods),
                named(DEAD, DEAD_NUMBER).tcp(80).to(9999).udp(80).to(9999).endpoints(&dead),
                named(FULL, FULL_NUMBER).tcp(80).to(9999).endpoints([&full]),
                named(LARGE, LARGE_NUMBER).tcp(80).to(LARGE_PORT).endpoints(&pods),
                named(DNS, DNS_NUMBER).udp(80).to(DNS_PORT).endpoints(&pods),
                named(NONE, NONE_NUMBER).tcp(80).udp(80),
                named(MPTCP, MPTCP_NUMBER).tcp(80).to(MPTCP_PORT).endpoints(&pods),
            ])
            .unwrap();
        let ports = [WEB_PORT, RACE_PORT, LARGE_PORT, MPTCP_PORT];
        let servers = Servers::start(pods, &ports, DNS_PORT);
        Self { client, patient, servers, dead, full, cluster }
    }

    /// This binary as a process of its own in the client's pod, which makes a round of connections for each byte that it
    /// reads.
    fn process(&self, rounds: usize) -> Child {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", PROCESS, "--ignored"]).env(ROUNDS_OF_PROCESS, rounds.to_string());
        self.client.child(command.stdin(Stdio::piped()).stdout(Stdio::null())).unwrap()
    }

    /// The counts of each service.
    fn assert_services(&self, all: &Expected) {
        for (service, protocol, expected) in all.all() {
            let sides = |seen: &Seen| {
                let mut seen = seen.clone();
                // Either may be first.
                if service == RACE {
                    let by_client = seen.closed.remove("client").unwrap_or(0);
                    *seen.closed.entry("server".to_owned()).or_default() += by_client;
                }
                seen
            };
            eventually(&format!("{service}, {protocol}: {expected:?}"), || {
                let seen = Seen::of(&self.cluster, service, protocol);
                holds(sides(&seen) == *expected, format!("{seen:?}"))
            });
        }
    }

    /// The calls that were refused.
    fn assert_refused(&self, all: &Expected) {
        let metrics = self.cluster.metrics().unwrap();
        for (service, protocol, count) in all.refused() {
            let protocol = protocol.to_string();
            let labels =
                [("service", service), ("protocol", &*protocol), ("reason", "no-endpoints")];
            let refused = metrics.sum("sockline_connections_refused_total", &labels);
            assert_eq!(refused as u64, count, "{service}, {protocol}");
        }
    }

    /// Waits for as many events as are expected, of which none was lost. Returns them.
    fn events(&self, watch: &Watch, all: &Expected) -> Vec<serde_json::Value> {
        let expected = events::expected(all);
        let count = expected.values().sum::<u64>() as usize;
        eventually(&format!("{count} events"), || {
            let lost = LOSSES.map(|reason| lost(self.cluster.agent(), reason));
            let seen = watch.count();
            holds(seen == count, format!("{seen} seen; lost {LOSSES:?}: {lost:?}"))
        });
        let seen = watch.events();
        assert_eq!(events::seen(&seen), expected);
        assert_eq!(LOSSES.map(|reason| lost(self.cluster.agent(), reason)), [0; 3], "{LOSSES:?}");
        seen
    }

    /// The bytes and retransmissions in events. Of retransmissions the test knows a lower bound, those of some sockets when
    /// it closed them, and an upper one, all that the kernel has sent in the client's network namespace. Without load there
    /// are no others.
    fn assert_amounts(&self, events: &[serde_json::Value], all: &Expected, of_sockets: u64) {
        let seen = events::seen_amounts(events);
        let bytes: BTreeMap<_, _> =
            seen.iter().map(|(of, amounts)| (of.clone(), amounts.bytes())).collect();
        assert_eq!(bytes, events::expected_amounts(all));
        let metrics = self.cluster.metrics().unwrap();
        for ((service, protocol), amounts) in &seen {
            let labels = [("service", &**service), ("protocol", &**protocol)];
            let counted = metrics.sum("sockline_retransmitted_segments_total", &labels);
            assert_eq!(counted as u64, amounts.retransmitted, "{service}, {protocol}");
        }
        let counted: u64 = seen.values().map(|amounts| amounts.retransmitted).sum();
        let of_kernel = tcp_counter(&self.client, "RetransSegs");
        assert!(
            of_sockets > 0 && (of_sockets..=of_kernel).contains(&counted),
            "{counted} counted, {of_sockets} at least, {of_kernel} at most"
        );
    }

    /// The counts of each backend, which its server has as well.
    fn assert_backends(&self, services: &[&str]) {
        for service in services {
            eventually(
                &format!("the backends of {service} to have what the servers count"),
                || {
                    let counted: BTreeMap<_, _> = self.backends(service, Protocol::Tcp).collect();
                    let mut servers = self.servers.counts();
                    servers.retain(|backend, _| counted.contains_key(backend));
                    let of_sockline =
                        counted.iter().map(|(backend, (counts, _))| (*backend, *counts));
                    let of_sockline: BTreeMap<_, _> =
                        of_sockline.filter(|(_, counts)| counts.connections > 0).collect();
                    holds(
                        servers == of_sockline && !servers.is_empty(),
                        format!("{of_sockline:?} and not {servers:?}"),
                    )
                },
            );
        }
        for (addresses, hits) in self.servers.datagrams() {
            let flows = self.backends(DNS, Protocol::Udp);
            let flows = flows.filter(|(backend, _)| addresses.contains(&backend.ip()));
            assert_eq!(flows.map(|(_, (counts, _))| counts.connections).sum::<u64>(), hits);
        }
        for pod in &self.dead {
            let refused = self.backends(DEAD, Protocol::Tcp);
            let refused = refused.filter(|(backend, _)| pod.addresses().contains(&backend.ip()));
            assert_eq!(
                refused.map(|(_, (_, refused))| refused).sum::<u64>(),
                tcp_counter(pod, "OutRsts")
            );
        }
    }

    /// The backends of a service, with what is counted, and how many connections they refused.
    fn backends(
        &self,
        service: &str,
        protocol: Protocol,
    ) -> impl Iterator<Item = (SocketAddr, (OfBackend, u64))> {
        let name = format!("default/{service}");
        let text = self.cluster.agent().cli(&["backends", &name, "-o", "json"]).unwrap();
        let listing: serde_json::Value = serde_json::from_str(&text).unwrap();
        let items = listing["items"].as_array().unwrap().clone();
        let ports = items.into_iter().filter(move |item| item["protocol"] == protocol.to_string());
        let backends = ports.flat_map(|port| port["backends"].as_array().unwrap().clone());
        backends.map(|backend| {
            let number = |name: &str| backend[name].as_u64().unwrap();
            let counts = OfBackend {
                connections: number("connections"),
                unanswered: number("unanswered"),
                sent: number("sentBytes"),
                received: number("receivedBytes"),
            };
            let address = backend["address"].as_str().unwrap().parse().unwrap();
            let address = SocketAddr::new(address, number("port") as u16);
            (address, (counts, backend["failed"]["refused"].as_u64().unwrap()))
        })
    }
}

/// What a pod's kernel counts of TCP: `OutRsts` are the resets that it has sent, one for each SYN to a port at which nothing
/// listens.
fn tcp_counter(pod: &Pod, name: &str) -> u64 {
    let text = pod.run(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|other| other == name).unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

/// No test: the process that the test below starts.
#[test]
#[ignore = "the test of ten thousand connections starts it"]
fn a_client_in_a_process_of_its_own() {
    let rounds = env::var(ROUNDS_OF_PROCESS).unwrap().parse().unwrap();
    clients::make(rounds, || stdin().read_exact(&mut [0]).unwrap());
}

/// Lets a process begin each of its rounds.
fn feed(mut process: ChildStdin, rounds: usize, pace: &Pace<'_>) {
    for _ in 0..rounds {
        pace.wait();
        process.write_all(b"x").unwrap();
    }
}

#[test]
fn ten_thousand_connections_of_all_kinds_are_counted_as_both_sides_do() {
    let mix = Mix::new();
    let watch = Watch::start(mix.cluster.agent(), &[]);
    let rounds = repetitions(ROUNDS);
    let mut total = Expected::of_rounds(rounds * (THREADS + PROCESSES));
    others::add_to(&mut total);
    large::add_to(&mut total);
    let has_mptcp = mptcp::is_possible(&mix);
    if has_mptcp {
        mptcp::add_to(&mut total);
    }
    let long_lived = others::open(&mix);
    let full = others::full(&mix);

    let mut processes: Vec<_> = (0..PROCESSES).map(|_| mix.process(rounds)).collect();
    let all_pace = Pace::new(&watch);
    let retransmitted = thread::scope(|scope| {
        let (client, all_pace) = (&mix.client, &all_pace);
        for _ in 0..THREADS {
            scope.spawn(move || client.run(|| clients::make(rounds, || all_pace.wait())));
        }
        for process in &mut processes {
            let input = process.stdin.take().unwrap();
            scope.spawn(move || feed(input, rounds, all_pace));
        }
        scope.spawn(|| others::time_out(&mix.patient));
        scope.spawn(|| large::upload(client));
        scope.spawn(|| large::download(client));
        others::killed(&mix);
        others::given_up(&mix);
        others::refused_datagrams(&mix);
        if has_mptcp {
            mptcp::make(&mix);
        }
        others::given_up_late(&mix)
    });
    for mut process in processes {
        assert!(end_of(&mut process).success(), "a client in a process of its own failed");
    }
    drop(full);

    // All but one have ended.
    let mut with_open = total.clone();
    with_open.add(WEB, Protocol::Tcp, &Seen { opened: 1, active: 1, ..Seen::default() });
    mix.assert_services(&with_open);
    drop(long_lived);
    total.add(WEB, Protocol::Tcp, &Way::ClientCloses.seen(1));
    mix.assert_services(&total);
    mix.assert_backends(&[WEB, RACE, LARGE]);
    if has_mptcp {
        mix.assert_backends(&[MPTCP]);
    }
    mix.assert_refused(&total);

    let made: u64 = total.all().map(|(_, _, seen)| seen.opened).sum();
    let (sent, received) = total.all().fold((0, 0), |(sent, received), (_, _, seen)| {
        (sent + seen.sent, received + seen.received)
    });
    println!("{made} connections, {sent} bytes sent and {received} received; MPTCP: {has_mptcp}");
    assert!(rounds < ROUNDS || made >= 10_000, "{made} connections");
    let events = mix.events(&watch, &total);
    mix.assert_amounts(&events, &total, retransmitted);
}
