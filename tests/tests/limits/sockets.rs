//! Records of sockets beyond the table: counted exactly, limited, and reported when the limit is reached.

use std::{
    fs, hint,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::common::{REPAIRS, assert_logged_once, eventually, holds};
use aya::maps::{Array, HashMap, Map, MapData};
use sockline::dataplane::Pins;
use sockline_ebpf::socket::{
    CGROUP_UNITS, CONNECTION_UNITS, OVERFLOW_UNITS, OverflowCount, OverflowEntry, RECORD_UNITS,
    STORAGE_UNITS, WAYS, WHOLE, place_of,
};
use sockline_testbed::{Cluster, Pod, Service, Socket, UdpClient, UdpServer, at};

const DNS: &str = "10.96.0.10:53";

/// A service of one pod, and clients of it.
struct Clients {
    _server: UdpServer,
    web: Pod,
    clients: Vec<Pod>,
    cluster: Cluster,
}

impl Clients {
    fn new(clients: usize, args: &[&str]) -> Self {
        let mut cluster = Cluster::with_agent_args(&[args, &REPAIRS].concat()).unwrap();
        let clients = cluster.pods("client", clients).unwrap();
        let web = cluster.pod("web").unwrap();
        let server = web.udp_server(5353).unwrap();
        let dns = Service::new("dns").ip("10.96.0.10").udp(53).to(5353).tcp(53).to(5353);
        cluster.apply([dns.endpoints([&web])]).unwrap();
        Self { _server: server, web, clients, cluster }
    }

    fn bpffs(&self) -> &Path {
        self.cluster.node().bpffs()
    }

    fn entries(&self) -> usize {
        let pin = Pins::in_bpffs(self.bpffs()).map("OVERFLOW");
        let map: HashMap<MapData, u64, OverflowEntry> =
            Map::HashMap(MapData::from_pin(pin).unwrap()).try_into().unwrap();
        map.keys().count()
    }

    fn counts(&self) -> Array<MapData, OverflowCount> {
        let pin = Pins::in_bpffs(self.bpffs()).map("OVERFLOW_COUNTS");
        Map::Array(MapData::from_pin(pin).unwrap()).try_into().unwrap()
    }

    /// The units that all sockets have taken, which must be the sum over all cgroups.
    #[track_caller]
    fn units(&self) -> u64 {
        self.try_units().unwrap()
    }

    /// An error if the sum over all cgroups differs: the counts are not read at one moment, while sockets are closed.
    fn try_units(&self) -> Result<u64, String> {
        let counts = self.counts();
        let units = |place: u32| counts.get(&place, 0).unwrap().units;
        let whole = units(WHOLE);
        let sum: u64 = (0..counts.len()).filter(|&place| place != WHOLE).map(units).sum();
        holds(sum == whole, format!("{sum} of all cgroups, {whole} of all sockets"))?;
        Ok(whole)
    }

    /// As if sockets of the clients' cgroup had taken these.
    fn add_units(&self, units: u64) {
        let cgroup = fs::metadata(self.cluster.node().cgroup()).unwrap().ino();
        let mut counts = self.counts();
        for place in [WHOLE, place_of(cgroup)] {
            let mut count = counts.get(&place, 0).unwrap();
            count.units += units;
            counts.set(place, count, 0).unwrap();
        }
    }

    #[track_caller]
    fn eventually_units(&self, wanted: u64) {
        eventually(&format!("{wanted} units to be taken"), || {
            let units = self.try_units()?;
            holds(units == wanted, units)
        });
    }

    fn faults(&self, name: &str) -> u64 {
        let status = self.cluster.status().unwrap();
        let faults = status["faults"].as_array().unwrap();
        let fault = faults.iter().find(|fault| fault["fault"] == name).unwrap();
        fault["count"].as_u64().unwrap()
    }

    fn full(&self) -> Vec<String> {
        crate::common::messages(&self.cluster.status().unwrap()["agent"]["fullMaps"])
    }
}

const NO_TABLE: [&str; 2] = ["--without-features", "compare-and-swap"];

#[test]
fn a_cgroup_has_a_limit_of_sockets_and_those_beyond_are_served() {
    const SOCKETS: u64 = 8_000;
    const BEYOND: u64 = 232;
    let setup = Clients::new(1, &NO_TABLE);
    // As if there were other sockets already: a process may not open as many files as the limit of sockets.
    let others = CGROUP_UNITS - SOCKETS;
    setup.add_units(others);
    let all = SOCKETS + BEYOND;
    let sockets: Vec<Socket> = (0..all)
        .map(|_| {
            setup.clients[0].run(|| {
                let socket = Socket::udp(libc::AF_INET).unwrap();
                socket.connect(at(DNS)).unwrap();
                socket
            })
        })
        .collect();
    assert_eq!((setup.units(), setup.entries()), (CGROUP_UNITS, SOCKETS as usize));
    assert_eq!(setup.faults("socket-limit"), BEYOND);
    assert_eq!(sockets[0].peer().unwrap(), at(DNS));
    let direct = SocketAddr::new(setup.web.addresses()[0], 5353);
    assert_eq!(sockets.last().unwrap().peer().unwrap(), direct);
    let beyond = setup.clients[0].run(|| UdpClient::connected(at(DNS)).unwrap());
    assert_eq!(beyond.ask("x").unwrap().who, "web");
    eventually("the status to name the cgroup", || {
        let full = setup.full();
        let is_named = |line: &String| line.contains("sockets of cgroup /");
        holds(full.iter().any(is_named), format!("{full:?}"))
    });
    assert_logged_once(setup.cluster.agent(), "all the room that they may beyond the socket table");
    drop((sockets, beyond));
    setup.eventually_units(others);
    assert_eq!(setup.entries(), 0);
    eventually("the cgroup to have room again", || {
        let full = setup.full();
        holds(full.is_empty(), format!("{full:?}"))
    });
    let again = setup.clients[0].run(|| UdpClient::connected(at(DNS)).unwrap());
    assert_eq!(again.socket().peer_addr().unwrap(), at(DNS));
}

#[test]
fn all_cgroups_together_have_a_limit() {
    let setup = Clients::new(1, &NO_TABLE);
    let mut counts = setup.counts();
    let mut whole = counts.get(&WHOLE, 0).unwrap();
    whole.units = OVERFLOW_UNITS.into();
    counts.set(WHOLE, whole, 0).unwrap();
    let client = setup.clients[0].run(|| UdpClient::connected(at(DNS)).unwrap());
    assert_eq!((client.ask("x").unwrap().who.as_str(), setup.entries()), ("web", 0));
    assert_eq!(setup.faults("socket-limit"), 1);
    whole.units = 0;
    counts.set(WHOLE, whole, 0).unwrap();
}

#[test]
fn the_units_of_a_socket_return_to_the_cgroup_that_took_them() {
    let setup = Clients::new(1, &NO_TABLE);
    let cgroup = setup.cluster.node().pod_cgroup("0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11").unwrap();
    let other = cgroup.container(&setup.clients[0], "other").unwrap();
    let socket = setup.clients[0].run(|| UdpClient::connected(at(DNS)).unwrap());
    assert_eq!(setup.units(), RECORD_UNITS);
    // A socket closed by a process of another cgroup, and a socket that is disconnected.
    other.run(move || drop(socket));
    setup.eventually_units(0);
    let counts = setup.counts();
    assert!((0..counts.len()).all(|place| counts.get(&place, 0).unwrap().units == 0));
    let tcp = setup.clients[0].run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        let _ = socket.connect(at(DNS));
        socket
    });
    // Where programs cannot identify the kernel's own sockets, its record is in socket storage.
    let is_identified = setup.cluster.features().unwrap().kernel_sockets;
    assert_eq!(setup.units(), if is_identified { RECORD_UNITS } else { CONNECTION_UNITS });
    drop(tcp);
    setup.eventually_units(0);
}

#[test]
fn a_socket_of_many_conversations_is_charged_for_its_storage() {
    let mut setup = Clients::new(1, &NO_TABLE);
    let count = u8::try_from(WAYS).unwrap();
    let address = |n: u8| SocketAddr::from(([10, 96, 1, n], 53));
    let services = (0..count).map(|n| {
        let service = Service::new(&format!("svc-{n}")).ip(&address(n).ip().to_string());
        service.udp(53).to(6000 + u16::from(n)).endpoints([&setup.web])
    });
    let services: Vec<Service> = services.collect();
    setup.cluster.apply(services).unwrap();
    let client = setup.clients[0].run(|| UdpClient::unconnected(at(DNS).ip()).unwrap());
    let send = |n| setup.clients[0].run(|| client.socket().send_to(b"x", address(n)).unwrap());
    send(0);
    assert_eq!(setup.units(), RECORD_UNITS);
    for n in 0..count {
        send(n);
    }
    assert_eq!(setup.units(), RECORD_UNITS + STORAGE_UNITS);
    drop(client);
    setup.eventually_units(0);
}

/// The programs charge it without an atomic operation, because the kernel holds the socket's lock while they
/// run.
#[test]
fn threads_that_give_a_socket_its_storage_at_once_are_charged_once() {
    const ROUNDS: usize = 5;
    const THREADS: u8 = 2;
    const SOCKETS: usize = 200;
    let mut setup = Clients::new(1, &NO_TABLE);
    let address = |n: u8| SocketAddr::from(([10, 96, 1, n], 53));
    let services = (0..=THREADS).map(|n| {
        let service = Service::new(&format!("svc-{n}")).ip(&address(n).ip().to_string());
        service.udp(53).to(6000 + u16::from(n)).endpoints([&setup.web])
    });
    let services: Vec<Service> = services.collect();
    setup.cluster.apply(services).unwrap();
    setup.clients[0].run(|| {
        for _ in 0..ROUNDS {
            let clients: Vec<UdpClient> =
                (0..SOCKETS).map(|_| UdpClient::unconnected(at(DNS).ip()).unwrap()).collect();
            let send = |client: &UdpClient, n| client.socket().send_to(b"x", address(n)).unwrap();
            for client in &clients {
                send(client, 0);
            }
            let started = AtomicUsize::new(0);
            let send_all = |n| {
                for (number, client) in clients.iter().enumerate() {
                    started.fetch_add(1, Ordering::SeqCst);
                    // Yielding would delay one of them.
                    while started.load(Ordering::SeqCst) < (number + 1) * usize::from(THREADS) {
                        hint::spin_loop();
                    }
                    // So that each of them is ahead in some rounds.
                    let steps = if n == 1 { number % 50 * 10 } else { 250 };
                    for step in 0..steps {
                        hint::black_box(step);
                    }
                    send(client, n);
                }
            };
            thread::scope(|threads| {
                let send_all = &send_all;
                (1..=THREADS).for_each(|n| drop(threads.spawn(move || send_all(n))));
            });
        }
    });
    setup.eventually_units(0);
    assert_eq!(setup.entries(), 0);
}

#[test]
fn an_mptcp_connection_is_charged_for_its_storage() {
    let setup = Clients::new(1, &[]);
    let _server = setup.web.tcp_server(5353).unwrap();
    let features = setup.cluster.features().unwrap();
    let socket = setup.clients[0].run(|| {
        let socket = Socket::mptcp(libc::AF_INET).unwrap()?;
        socket.connect(at(DNS)).unwrap();
        Some(socket)
    });
    let Some(socket) = socket.filter(|_| features.mptcp_sock) else { return };
    assert_eq!(socket.peer().unwrap(), at(DNS));
    assert_eq!(setup.units(), CONNECTION_UNITS);
    drop(socket);
    setup.eventually_units(0);
}

#[test]
fn sockets_with_a_record_in_the_table_take_no_socket_storage() {
    let setup = Clients::new(1, &[]);
    if !setup.cluster.features().unwrap().compare_and_swap {
        return;
    }
    let sockets: Vec<_> =
        (0..20).map(|_| setup.clients[0].run(|| UdpClient::connected(at(DNS)).unwrap())).collect();
    assert_eq!((setup.units(), setup.entries()), (0, 0));
    drop(sockets);
}
