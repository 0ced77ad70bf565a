//! Connections are counted while they are open, and once.

use std::{
    net::{Shutdown, TcpStream},
    os::fd::AsFd as _,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, ScopedJoinHandle},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sockline::dataplane::{Pins, Snapshot};
use sockline_testbed::Cluster;

use super::{
    CLOSE_WAIT, CountedWeb, Seen, V4, V6, at, counts, ended, reset, transfer, until_ended,
    wait_for_state,
};
use crate::common::{eventually, holds};

/// Counts open connections as often as it can.
pub(super) const OFTEN: [&str; 2] = ["--open-connections-interval", "20ms"];

/// The node counts the last byte of each direction when the connection ends: it may be a FIN.
fn while_open(sent: u64, received: u64) -> Seen {
    Seen { sent: sent - 1, received: received - 1, opened: 1, active: 1, ..Seen::default() }
}

/// Bytes sent and received, as those see it who read the maps: of all backends, and of all clients.
fn in_maps(cluster: &Cluster) -> [(u64, u64); 2] {
    let snapshot = Snapshot::open(Pins::in_bpffs(cluster.node().bpffs())).unwrap();
    let backends = snapshot.backends().unwrap();
    let of_backends = backends.values().flatten().map(|(_, of)| (of.sent, of.received));
    let clients = snapshot.clients().unwrap().connections().unwrap();
    let of_clients = clients
        .iter()
        .map(|of| (of.ended.sent + of.open.sent, of.ended.received + of.open.received));
    let add = |sum: (u64, u64), one: (u64, u64)| (sum.0 + one.0, sum.1 + one.1);
    [of_backends.fold((0, 0), add), of_clients.fold((0, 0), add)]
}

#[track_caller]
fn assert_in_maps(cluster: &Cluster, sent: u64, received: u64) {
    eventually("backends and clients to have the same", || {
        let seen = in_maps(cluster);
        holds(seen == [(sent, received); 2], format!("{seen:?}, not {sent} and {received}"))
    });
}

/// Whether connections can be counted while they are open: not before Linux 5.12, for example.
pub(super) fn is_possible(web: &CountedWeb) -> bool {
    web.cluster.status().unwrap()["agent"]["bytesCounted"] == "while-open"
}

#[test]
fn an_open_connection_moves_the_counts_of_its_service_backend_and_client() {
    for to in [V4, V6] {
        let web = CountedWeb::with(&OFTEN);
        if !is_possible(&web) {
            return;
        }
        let (mut client, mut server) = web.connection(at(to));
        transfer(&mut client, &mut server, 1_000);
        transfer(&mut server, &mut client, 3_000);
        web.assert_seen(&while_open(1_000, 3_000));
        assert_in_maps(&web.cluster, 999, 2_999);
        transfer(&mut client, &mut server, 500);
        web.assert_seen(&while_open(1_500, 3_000));
        transfer(&mut server, &mut client, 70_000);
        web.assert_seen(&while_open(1_500, 73_000));
        drop(client);
        web.assert_seen(&Seen { sent: 1_500, received: 73_000, ..ended("client", 1) });
        assert_in_maps(&web.cluster, 1_500, 73_000);
    }
}

/// What was received before counts: the connection was answered.
#[test]
fn how_a_connection_ended_depends_on_all_of_it() {
    let web = CountedWeb::with(&OFTEN);
    if !is_possible(&web) {
        return;
    }
    let (mut client, mut server) = web.connection(at(V4));
    transfer(&mut client, &mut server, 10);
    transfer(&mut server, &mut client, 20);
    server.shutdown(Shutdown::Write).unwrap();
    wait_for_state(&client, CLOSE_WAIT);
    // All that was received is counted, since the FIN came after it.
    web.assert_seen(&while_open(10, 21));
    transfer(&mut client, &mut server, 30);
    drop(client);
    web.assert_seen(&Seen { sent: 40, received: 20, ..ended("server", 1) });
}

#[test]
fn nothing_is_counted_twice_or_lost_if_connections_end_while_they_are_read() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 8;
    const CONNECTIONS: u64 = 20;
    const SIZES: [(usize, usize); 4] = [(1, 9_000), (300, 1), (20_000, 40), (7, 7)];
    let web = CountedWeb::with(&OFTEN);
    if !is_possible(&web) {
        return;
    }
    let is_over = AtomicBool::new(false);
    let connecting = Mutex::new(());
    // One at a time, so that these are the two ends of one connection.
    let pair = || {
        let _one = connecting.lock().unwrap();
        web.connection(at(V4))
    };
    let counted = || {
        let metrics = web.cluster.metrics().unwrap();
        let service = [("service", "web"), ("protocol", "TCP")];
        ["sent", "received"]
            .map(|name| metrics.sum(&format!("sockline_{name}_bytes_total"), &service))
    };
    // By connections that have ended, or are about to.
    let received_by_ended = AtomicU64::new(0);
    let exchange = |(client, server): &mut (TcpStream, TcpStream), (sent, received)| {
        transfer(client, server, sent);
        transfer(server, client, received);
    };
    let of_each: usize = SIZES.iter().map(|size| size.1).sum();
    let make_load = || {
        for round in 0..ROUNDS {
            let mut open: Vec<_> = (0..CONNECTIONS).map(|_| pair()).collect();
            open.iter_mut().for_each(|pair| exchange(pair, SIZES[0]));
            eventually("open connections to be counted", || {
                let [_, received] = counted();
                let ended = received_by_ended.load(Ordering::SeqCst) as f64;
                holds(received > ended, format!("{received} received, {ended} by others"))
            });
            for (number, mut pair) in (0..).zip(open) {
                SIZES[1..].iter().for_each(|&sizes| exchange(&mut pair, sizes));
                received_by_ended.fetch_add(of_each as u64, Ordering::SeqCst);
                end(pair.0, pair.1, number + round);
            }
        }
    };
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut last = [0.0; 2];
            while !is_over.load(Ordering::Relaxed) {
                let seen = counted();
                let falls = seen.iter().zip(last).any(|(now, before)| *now < before);
                assert!(!falls, "{seen:?} after {last:?}");
                last = seen;
            }
        });
        let load: Vec<_> = (0..THREADS).map(|_| scope.spawn(make_load)).collect();
        let ended: Vec<_> = load.into_iter().map(ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        watch.join().unwrap();
        ended.into_iter().for_each(|result| result.unwrap());
    });
    let all = THREADS * ROUNDS * CONNECTIONS;
    let [sent, received] = [SIZES.map(|size| size.0), SIZES.map(|size| size.1)]
        .map(|sizes| sizes.iter().sum::<usize>() as u64 * all);
    web.assert_seen(&Seen {
        sent,
        received,
        opened: all,
        closed: counts([("client", all / 2), ("server", all / 4), ("server-reset", all / 4)]),
        round_trips: all,
        lifetimes: all,
        ..Seen::default()
    });
    assert_in_maps(&web.cluster, sent, received);
}

/// Ends a connection in one of three ways.
fn end(mut client: TcpStream, server: TcpStream, way: u64) {
    match way % 4 {
        0 | 1 => drop(client),
        2 => {
            drop(server);
            until_ended(&mut client).unwrap();
        }
        _ => {
            reset(server);
            until_ended(&mut client).unwrap_err();
        }
    }
}

fn kill_agent(cluster: &Cluster) {
    kill(Pid::from_raw(cluster.agent().pid() as i32), Signal::SIGKILL).unwrap();
}

#[test]
fn an_agent_continues_where_one_was_killed() {
    let mut web = CountedWeb::with(&OFTEN);
    if !is_possible(&web) {
        return;
    }
    let (mut client, mut server) = web.connection(at(V4));
    let (mut other, mut other_server) = web.connection(at(V4));
    transfer(&mut client, &mut server, 1_000);
    transfer(&mut other, &mut other_server, 50);
    let both = |sent| Seen { sent, opened: 2, active: 2, ..Seen::default() };
    web.assert_seen(&both(999 + 49));
    kill_agent(&web.cluster);
    transfer(&mut client, &mut server, 500);
    drop(other);
    web.cluster.restart(|_| ()).unwrap();
    let one = Seen { opened: 2, active: 1, ..ended("client", 1) };
    web.assert_seen(&Seen { sent: 1_499 + 50, unanswered: 1, ..one });
    kill_agent(&web.cluster);
    web.cluster.restart(|_| ()).unwrap();
    transfer(&mut server, &mut client, 200);
    let one = Seen { opened: 2, active: 1, ..ended("client", 1) };
    web.assert_seen(&Seen { sent: 1_499 + 50, received: 199, unanswered: 1, ..one });
    drop(client);
    web.assert_seen(&Seen { sent: 1_550, received: 200, unanswered: 1, ..ended("client", 2) });
    assert_in_maps(&web.cluster, 1_550, 200);
}

/// The kernel forgets what it has counted of a connection that `connect()` takes down.
#[test]
fn a_socket_that_connects_again_counts_from_zero() {
    let web = CountedWeb::with(&OFTEN);
    if !is_possible(&web) {
        return;
    }
    let socket = web.socket(at(V4));
    web.client.run(|| socket.connect(at(V4))).unwrap();
    let mut server = web.listener.accept().unwrap().0;
    let mut client = TcpStream::from(socket.as_fd().try_clone_to_owned().unwrap());
    transfer(&mut client, &mut server, 1_000);
    web.assert_seen(&Seen { sent: 999, opened: 1, active: 1, ..Seen::default() });
    socket.disconnect().unwrap();
    web.client.run(|| socket.connect(at(V4))).unwrap();
    let mut server = web.listener.accept().unwrap().0;
    transfer(&mut client, &mut server, 500);
    let first = Seen { round_trips: 0, opened: 2, active: 1, ..ended("client-reset", 1) };
    web.assert_seen(&Seen { sent: 999 + 499, ..first.clone() });
    drop((client, socket));
    let closed = counts([("client-reset", 1), ("client", 1)]);
    let unanswered = 1;
    web.assert_seen(&Seen {
        sent: 999 + 500,
        active: 0,
        closed,
        unanswered,
        round_trips: 1,
        lifetimes: 2,
        ..first
    });
}

#[test]
fn a_connection_whose_endpoint_was_removed_counts_for_its_service() {
    let mut web = CountedWeb::with(&OFTEN);
    if !is_possible(&web) {
        return;
    }
    let (mut client, mut server) = web.connection(at(V4));
    transfer(&mut client, &mut server, 1_000);
    transfer(&mut server, &mut client, 10);
    web.assert_seen(&while_open(1_000, 10));
    let heir = web.cluster.pod("heir").unwrap();
    web.cluster.apply([CountedWeb::service().endpoints([&heir])]).unwrap();
    transfer(&mut client, &mut server, 500);
    web.assert_seen(&while_open(1_500, 10));
    // The entry is reclaimed after its grace period.
    let entries = |web: &CountedWeb| {
        let maps = web.cluster.status().unwrap()["agent"]["maps"].clone();
        maps.as_array().unwrap().iter().find(|map| map["name"] == "backends").unwrap()["entries"]
            .as_u64()
    };
    eventually("the removed endpoint to be reclaimed", || {
        let entries = entries(&web);
        holds(entries == Some(4), format!("{entries:?}"))
    });
    transfer(&mut server, &mut client, 20);
    web.assert_seen(&while_open(1_500, 30));
    drop(client);
    web.assert_seen(&Seen { sent: 1_500, received: 30, ..ended("client", 1) });
}

#[test]
fn the_status_says_when_bytes_are_counted() {
    for args in [["--telemetry", "off"], ["--without-features", "compare-and-swap"]] {
        let web = CountedWeb::with(&args);
        assert!(!is_possible(&web), "{args:?}");
    }
    let web = CountedWeb::new();
    let features = web.cluster.status().unwrap()["agent"]["kernelFeatures"].clone();
    let needed = ["compareAndSwap", "kernelSockets", "socketFields"];
    assert_eq!(is_possible(&web), needed.iter().all(|feature| features[feature] == true));
}
