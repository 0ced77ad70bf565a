//! Connects that hang show in a gauge, while that is known.

use std::{collections::BTreeSet, fs, net::TcpStream};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sockline_testbed::{Cluster, Socket};

use super::{
    CountedWeb, V4, V6, at, failed,
    failures::{DEAD, DEAD_V6, assert_dead, dead, full},
    family,
    long_connections::{OFTEN, is_possible},
    transfer,
};
use crate::common::{eventually, holds};

const HANGING: &str = "sockline_connections_hanging";

/// The services that have the gauge, and its sum.
fn seen(cluster: &Cluster) -> (BTreeSet<String>, f64) {
    let metrics = cluster.metrics().unwrap();
    let services = metrics.label_values(HANGING, "service");
    (services.into_iter().map(ToOwned::to_owned).collect(), metrics.sum(HANGING, &[]))
}

#[track_caller]
fn assert_hanging(cluster: &Cluster, services: &[&str], service: &str, count: u32) {
    let services: BTreeSet<String> = services.iter().map(ToString::to_string).collect();
    eventually(&format!("{count} hanging connects of {service}"), || {
        let (seen, all) = seen(cluster);
        let of_it = cluster.metrics().unwrap().sum(HANGING, &[("service", service)]);
        let is_so = (&seen, all, of_it) == (&services, count.into(), count.into());
        holds(is_so, format!("{all} of {seen:?}, {of_it} of it"))
    });
}

fn without_waiting(web: &CountedWeb, to: &str) -> Socket {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    web.client.run(|| {
        let socket = Socket::open(family(at(to)), kind, libc::IPPROTO_TCP).unwrap();
        let error = socket.connect(at(to)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
        socket
    })
}

#[test]
fn a_connect_hangs_while_nothing_answers_until_it_is_given_up() {
    let mut web = CountedWeb::with(&OFTEN);
    if !is_possible(&web) {
        return;
    }
    web.cluster.apply([dead().endpoints([&web.web])]).unwrap();
    let _full = full(&web);
    let (mut client, mut server) = web.connection(at(V4));
    transfer(&mut client, &mut server, 1_000);
    assert_hanging(&web.cluster, &["web"], "web", 0);
    let hanging = [DEAD, DEAD, DEAD_V6].map(|to| without_waiting(&web, to));
    assert_hanging(&web.cluster, &["dead", "web"], "dead", 3);
    let [first, rest @ ..] = hanging;
    drop(first);
    assert_hanging(&web.cluster, &["dead", "web"], "dead", 2);
    drop(rest);
    assert_hanging(&web.cluster, &["dead", "web"], "dead", 0);
    assert_dead(&web, &failed("given-up", 3));
}

/// The listener takes the connection from its queue, and answers the next SYN.
#[test]
fn a_connect_that_is_answered_late_hangs_no_more() {
    let mut web = CountedWeb::with(&OFTEN);
    if !is_possible(&web) {
        return;
    }
    web.cluster.apply([dead().endpoints([&web.web])]).unwrap();
    let full = full(&web);
    let socket = without_waiting(&web, DEAD);
    assert_hanging(&web.cluster, &["dead"], "dead", 1);
    let _queued = full.listener.accept().unwrap();
    let mut server = full.listener.accept().unwrap().0;
    let mut client: TcpStream = socket.into_std();
    client.set_nonblocking(false).unwrap();
    assert_hanging(&web.cluster, &["dead"], "dead", 0);
    transfer(&mut client, &mut server, 1_000);
}

#[test]
fn the_gauge_of_a_service_that_is_removed_disappears() {
    let mut web = CountedWeb::with(&OFTEN);
    if !is_possible(&web) {
        return;
    }
    web.cluster.apply([dead().endpoints([&web.web])]).unwrap();
    let _full = full(&web);
    let (_client, _server) = web.connection(at(V6));
    let _socket = without_waiting(&web, DEAD);
    assert_hanging(&web.cluster, &["dead", "web"], "dead", 1);
    web.cluster.remove("dead").unwrap();
    assert_hanging(&web.cluster, &["web"], "web", 0);
}

#[test]
fn without_readings_of_open_connections_there_is_no_gauge() {
    let off = CountedWeb::with(&[&OFTEN[..], &["--telemetry", "off"]].concat());
    let (mut client, mut server) = off.connection(at(V4));
    transfer(&mut client, &mut server, 1_000);
    assert_eq!(off.seen().active, 1);
    assert_eq!(seen(&off.cluster).0, BTreeSet::new());

    let web = CountedWeb::with(&OFTEN);
    if !is_possible(&web) {
        return;
    }
    let (mut client, mut server) = web.connection(at(V4));
    transfer(&mut client, &mut server, 1_000);
    assert_hanging(&web.cluster, &["web"], "web", 0);
    // Nobody starts the helper again then.
    let helper = web.cluster.status().unwrap()["agent"]["termination"]["helper"]["pid"].clone();
    let status = fs::read_to_string(format!("/proc/{helper}/status")).unwrap();
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    kill(Pid::from_raw(supervisor.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    eventually("no gauge", || {
        let (seen, _) = seen(&web.cluster);
        holds(seen.is_empty(), format!("{seen:?}"))
    });
}
