//! Counts outlive agents and endpoints, and are there in part where the programs cannot read sockets.

use std::{
    mem::offset_of,
    net::{SocketAddr, TcpStream},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sockline::dataplane::Pins;
use sockline_ebpf::{
    agent_state::AgentState,
    backend::Backend,
    id::{BackendId, ServiceId},
    telemetry::{ClassCounts, ConnectionCounts, RemovedBackends},
    traffic_class::TrafficClass,
};
use sockline_testbed::{Metrics, Protocol, Service, bpf::RawMap};

use super::{CountedWeb, Seen, at, counts, ended, transfer};
use crate::common::{CART, WebNode, damage::Damage, eventually, holds, ip, series, translated};

#[test]
fn a_connection_that_outlives_its_agent_is_counted_when_it_ends() {
    let mut web = CountedWeb::new();
    let (mut client, mut server) = web.connection(at(super::V4));
    transfer(&mut client, &mut server, 100);
    drop(web.connection(at(super::V4)));
    web.cluster.restart(|_| ()).unwrap();
    web.assert_seen(&Seen { active: 1, opened: 2, ..ended("client", 1) });
    drop(client);
    web.assert_seen(&Seen { sent: 100, unanswered: 1, ..ended("client", 2) });
}

#[test]
fn a_connection_that_ends_while_there_is_no_agent_is_counted() {
    let mut web = CountedWeb::new();
    let (client, _server) = web.connection(at(super::V4));
    let mut client = Some(client);
    web.cluster.restart(|_| drop(client.take())).unwrap();
    web.assert_seen(&ended("client", 1));
}

#[test]
fn a_connection_to_a_removed_endpoint_ends_for_its_service() {
    let mut web = CountedWeb::new();
    let (mut client, mut server) = web.connection(at(super::V4));
    let (other, _other_server) = web.connection(at(super::V6));
    transfer(&mut client, &mut server, 100);
    transfer(&mut server, &mut client, 200);
    let heir = web.cluster.pod("heir").unwrap();
    web.cluster.apply([CountedWeb::service().endpoints([&heir])]).unwrap();
    web.assert_seen(&Seen { opened: 2, active: 2, ..Seen::default() });
    drop(other);
    web.assert_seen(&Seen { opened: 2, active: 1, ..ended("client", 1) });
    // The entry is reclaimed after its grace period, and another endpoint may get it.
    let reclaimed = || {
        let usage = web.cluster.status().unwrap()["agent"]["maps"].clone();
        let maps = usage.as_array().unwrap().clone();
        let backends = maps.iter().find(|map| map["name"] == "backends").unwrap().clone();
        if backends["entries"] == 4 { Ok(()) } else { Err(backends) }
    };
    eventually("the removed endpoint to be reclaimed", reclaimed);
    let seen = web.seen();
    assert_eq!((seen.opened, seen.active), (2, 1));
    let (late, _server) = (client, server);
    drop(late);
    web.assert_seen(&Seen { sent: 100, received: 200, ..ended("client", 2) });
}

#[test]
fn a_connection_of_a_deleted_service_never_counts_for_another() {
    let mut web = CountedWeb::new();
    let (client, _server) = web.connection(at(super::V4));
    web.cluster.remove("web").unwrap();
    for n in 0..5_u8 {
        let heir = Service::new(&format!("heir-{n}")).ip(&format!("10.96.2.{n}")).tcp(80).to(8080);
        web.cluster.apply([heir.endpoints([&web.web])]).unwrap();
    }
    thread::scope(|scope| {
        let _ = scope.spawn(|| drop(client)).join();
    });
    for n in 0..5 {
        let heir = Seen::of(&web.cluster, &format!("heir-{n}"), Protocol::Tcp);
        assert_eq!(heir, Seen::default());
    }
}

/// The next agent finds nothing of the deleted service but its number.
#[test]
fn a_connection_of_a_deleted_service_never_counts_for_one_that_was_made_after_a_restart() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    let to = SocketAddr::new(ip(CART), 80);
    let client = node.client.run(|| TcpStream::connect(to)).unwrap();
    node.remove("cart.yaml");
    node.eventually_untouched(CART);
    agent.stop().unwrap();
    let next = node.start_agent();
    node.put_service("heir", "10.96.0.2");
    node.eventually_served("10.96.0.2");
    let seen =
        || Seen::in_metrics(&Metrics::parse(&next.metrics().unwrap()), "heir", Protocol::Tcp);
    let before = eventually("what was asked to have ended", || {
        let seen = seen();
        holds(seen.active == 0, format!("{seen:?}")).map(|()| seen)
    });
    thread::scope(|scope| {
        let _ = scope.spawn(|| drop(client)).join();
    });
    assert_eq!(seen(), before);
}

/// An agent moves the counts of a removed backend to its service, and then frees the entry. It may be killed in between.
#[test]
fn counts_that_an_agent_moved_before_it_was_killed_are_not_moved_again() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    let damage = Damage::of(&node);
    let service = damage.frontend(80).service;
    agent.stop().unwrap();
    let counts = ConnectionCounts { opened: 7, closed: 7, ..ConnectionCounts::NONE };
    let class = TrafficClass::OtherZone.byte();
    let left = |generation| Backend { service, generation, counts, class, ..Backend::default() };
    // One is moved, and those before and behind it are not yet.
    damage.set_backend(900, left(5));
    damage.set_backend(901, left(5));
    let mut removed =
        RemovedBackends { counts: ClassCounts::NONE, last: BackendId(901), last_generation: 5 };
    *removed.counts.of_byte(class) = counts;
    damage.set_removed(service, removed);
    damage.set_backend(902, left(5));
    let next = node.start_agent();
    let opened = series(&next.metrics().unwrap(), &translated("cart", "TCP"));
    assert_eq!(opened, Some(21.0));
    let metrics = Metrics::parse(&next.metrics().unwrap());
    let of_class = [("service", "cart"), ("traffic_class", "other-zone")];
    assert_eq!(metrics.sum("sockline_traffic_class_connections_opened_total", &of_class), 21.0);
    for id in 900..=902 {
        assert_eq!(damage.backend(id).service, ServiceId::NONE, "{id}");
    }
}

#[test]
fn a_number_of_the_last_service_that_cannot_be_is_replaced() {
    let (node, mut agent) = WebNode::serving(1, &[]);
    let pin = Pins::in_bpffs(node.bpffs()).map("AGENT_STATE");
    let state = RawMap::pinned(&pin).unwrap();
    let at = offset_of!(AgentState, last_service);
    let last = || {
        let value = state.get(&[0; 4]).unwrap().unwrap();
        u64::from_ne_bytes(value[at..at + 8].try_into().unwrap())
    };
    let before = last();
    assert!(before >= 2, "two service ports: {before}");
    for (wrong, name, address) in [(0, "ship", "10.96.0.2"), (u64::MAX, "mail", "10.96.0.3")] {
        let before = last();
        agent.stop().unwrap();
        let mut value = state.get(&[0; 4]).unwrap().unwrap();
        value[at..at + 8].copy_from_slice(&u64::to_ne_bytes(wrong));
        state.set(&[0; 4], &value).unwrap();
        agent = node.start_agent();
        node.put_service(name, address);
        node.eventually_served(address);
        assert_eq!(last(), before + 2);
    }
}

#[test]
fn what_ends_after_its_service_was_deleted_takes_no_memory_for_long() {
    let mut web = CountedWeb::with(&["--reconcile-interval", "1s"]);
    let (client, _server) = web.connection(at(super::V4));
    web.cluster.remove("web").unwrap();
    let pin = Pins::in_bpffs(web.cluster.node().bpffs()).map("SERVICE_STATS");
    let entries = || RawMap::pinned(&pin).unwrap().keys().unwrap().len();
    eventually("the entry of the deleted service to go", || holds(entries() == 0, entries()));
    // Its end makes the entry again. The agent is stopped until then, so that the entry can be seen.
    let agent = Pid::from_raw(web.cluster.agent().pid() as i32);
    kill(agent, Signal::SIGSTOP).unwrap();
    drop(client);
    eventually("the entry to come back", || holds(entries() == 1, entries()));
    kill(agent, Signal::SIGCONT).unwrap();
    eventually("the entry to go again", || holds(entries() == 0, entries()));
}

#[test]
fn without_telemetry_connections_are_counted_when_they_are_opened_and_closed() {
    let web = CountedWeb::with(&["--telemetry", "off"]);
    let (mut client, mut server) = web.connection(at(super::V4));
    transfer(&mut client, &mut server, 100);
    web.assert_seen(&Seen { opened: 1, active: 1, ..Seen::default() });
    drop(client);
    let unknown = counts([("unknown", 1)]);
    web.assert_seen(&Seen { opened: 1, closed: unknown, ..Seen::default() });
}

#[test]
fn a_kernel_that_lets_no_sockets_be_read_has_connections_counted_when_they_are_opened_and_closed() {
    let web = CountedWeb::with(&["--without-features", "socket-fields"]);
    drop(web.connection(at(super::V4)));
    let unknown = counts([("unknown", 1)]);
    web.assert_seen(&Seen { opened: 1, closed: unknown, ..Seen::default() });
    let log = web.cluster.agent().log();
    assert!(log.contains("connections are only counted when they are opened and closed"), "{log}");
    let status = web.cluster.status().unwrap();
    assert_eq!(status["agent"]["kernelFeatures"]["socketFields"], false);
}
