//! Connections that are not established, and why.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
};

use nix::sys::socket::{Backlog, listen, sockopt::TcpUserTimeout};
use sockline_testbed::{Endpoint, Protocol, Service, Socket};

use super::{CLOSE, CountedWeb, Seen, V4, at, ended, failed, forms, wait_for_state};
use crate::common::{eventually, holds};

pub(super) const DEAD: &str = "10.96.0.2:80";
pub(super) const DEAD_V6: &str = "[fd00:96::2]:80";

/// Nothing listens at its endpoints.
pub(super) fn dead() -> Service {
    Service::new("dead").ip("10.96.0.2").ip("fd00:96::2").tcp(80).to(9999)
}

fn seen_of_dead(web: &CountedWeb) -> Seen {
    Seen::of(&web.cluster, "dead", Protocol::Tcp)
}

#[track_caller]
pub(super) fn assert_dead(web: &CountedWeb, expected: &Seen) {
    super::assert_counted(&web.cluster, "dead", Protocol::Tcp, expected);
}

/// A web with a second service, nothing of whose endpoints listens.
fn with_dead() -> CountedWeb {
    with_dead_and(&[])
}

fn with_dead_and(args: &[&str]) -> CountedWeb {
    let mut web = CountedWeb::with(args);
    web.cluster.apply([dead().endpoints([&web.web])]).unwrap();
    web
}

#[test]
fn a_refused_connection_whose_error_was_fetched() {
    let web = with_dead();
    for to in [DEAD, DEAD_V6] {
        let error = web.client.run(|| TcpStream::connect(at(to))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    assert_dead(&web, &failed("refused", 2));
    web.assert_seen(&Seen::default());
}

#[test]
fn a_backend_fails_while_it_establishes_no_connection() {
    let web = with_dead();
    let of = |service| {
        let labels = [("service", service), ("protocol", "TCP")];
        web.cluster.metrics().unwrap().sum("sockline_backends_failing", &labels)
    };
    let connect = || web.client.run(|| TcpStream::connect(at(DEAD)));
    assert_eq!(of("dead"), 0.0);
    for failing in [0.0, 0.0, 1.0, 1.0] {
        connect().unwrap_err();
        eventually("the backend's failures", || holds(of("dead") == failing, of("dead")));
    }
    drop(web.connection(at(V4)));
    assert_eq!(of("web"), 0.0);
    let listener = web.web.run(|| TcpListener::bind("[::]:9999")).unwrap();
    drop((connect().unwrap(), listener));
    eventually("the backend to answer", || holds(of("dead") == 0.0, of("dead")));
}

#[test]
fn a_refused_connection_whose_error_nobody_fetched() {
    let web = with_dead();
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    let socket = web.client.run(|| {
        let socket = Socket::open(libc::AF_INET, kind, libc::IPPROTO_TCP).unwrap();
        let error = socket.connect(at(DEAD)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
        socket
    });
    wait_for_state(&socket, CLOSE);
    drop(socket);
    assert_dead(&web, &failed("refused", 1));
}

#[test]
fn one_socket_that_is_connected_three_times_is_three_connections() {
    let web = with_dead();
    for (good, bad) in [(at(V4), at(DEAD)), (at(super::V6), at(DEAD_V6))] {
        let socket = web.socket(good);
        web.client.run(|| {
            assert!(socket.connect(bad).is_err());
            assert!(socket.connect(bad).is_err());
            socket.connect(good).unwrap();
        });
        let (mut server, mut client): (_, TcpStream) =
            (web.listener.accept().unwrap().0, socket.into_std());
        super::transfer(&mut client, &mut server, 33);
        super::transfer(&mut server, &mut client, 44);
    }
    assert_dead(&web, &failed("refused", 4));
    web.assert_seen(&Seen { sent: 66, received: 88, ..ended("client", 2) });
}

#[test]
fn a_socket_that_dials_something_else_after_a_failure_is_counted_once() {
    let web = with_dead();
    let socket = web.socket(at(DEAD));
    let backend = SocketAddr::new(web.web.addresses()[0], 8080);
    web.client.run(|| {
        assert!(socket.connect(at(DEAD)).is_err());
        assert_dead(&web, &Seen { opened: 1, active: 1, ..Seen::default() });
        socket.connect(backend).unwrap();
    });
    let (mut server, mut client): (_, TcpStream) =
        (web.listener.accept().unwrap().0, socket.into_std());
    super::transfer(&mut client, &mut server, 33);
    drop(client);
    assert_dead(&web, &failed("refused", 1));
    web.assert_seen(&Seen::default());
}

#[test]
fn a_connection_without_a_route_is_unreachable() {
    let mut web = CountedWeb::new();
    for nowhere in ["198.51.100.0/24", "2001:db8:dead::/48"] {
        let route = ["route", "add", "unreachable", nowhere];
        assert!(web.client.output(Command::new("ip").args(route)).unwrap().status.success());
    }
    let gone: [IpAddr; 2] = ["198.51.100.7", "2001:db8:dead::7"].map(|ip| ip.parse().unwrap());
    web.cluster.apply([dead().endpoints([Endpoint::at(&gone)])]).unwrap();
    for to in [DEAD, DEAD_V6] {
        web.client.run(|| TcpStream::connect(at(to))).unwrap_err();
    }
    assert_dead(&web, &failed("unreachable", 2));
}

/// A listener whose queue is full: the kernel drops every SYN to it.
pub(super) struct Full {
    pub(super) listener: TcpListener,
    _queued: Vec<TcpStream>,
}

pub(super) fn full(web: &CountedWeb) -> Full {
    let (listener, queued) = web.web.run(|| {
        let listener = TcpListener::bind("[::]:9999").unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        (listener, vec![TcpStream::connect("127.0.0.1:9999").unwrap()])
    });
    Full { listener, _queued: queued }
}

#[test]
fn a_connection_whose_syns_are_dropped_times_out() {
    // While it is open, nothing is counted, as a SYN that is sent again would be.
    let web = with_dead_and(&["--open-connections-interval", "1h"]);
    let _full = full(&web);
    let socket = web.socket(at(DEAD));
    // Two SYNs: three seconds.
    super::set_syn_count(&socket, 1);
    let error = web.client.run(|| socket.connect(at(DEAD))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    drop(socket);
    assert_dead(&web, &failed("timed-out", 1));
    let resent = web.cluster.metrics().unwrap();
    // The kernel forgets how many once the application has fetched the error.
    assert_eq!(resent.sum("sockline_retransmitted_segments_total", &[("service", "dead")]), 0.0);
}

#[test]
fn a_connection_that_the_client_gives_up() {
    let web = with_dead();
    let _full = full(&web);
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    for _ in 0..3 {
        web.client.run(|| {
            let socket = Socket::open(libc::AF_INET, kind, libc::IPPROTO_TCP).unwrap();
            assert!(socket.connect(at(DEAD)).is_err());
        });
    }
    assert_dead(&web, &failed("given-up", 3));
}

#[test]
fn an_established_connection_that_nobody_answers_any_more_is_lost() {
    let web = CountedWeb::new();
    let (mut client, mut server) = web.connection(at(V4));
    super::transfer(&mut client, &mut server, 10);
    super::transfer(&mut server, &mut client, 10);
    nix::sys::socket::setsockopt(&client, TcpUserTimeout, &500).unwrap();
    let down = ["link", "set", "eth0", "down"];
    assert!(web.web.output(Command::new("ip").args(down)).unwrap().status.success());
    std::io::Write::write_all(&mut client, b"lost").unwrap();
    assert!(super::until_ended(&mut client).is_err());
    drop(client);
    web.assert_seen(&Seen { sent: 14, received: 10, ..ended("lost", 1) });
}

#[test]
fn failures_of_mptcp_sockets_are_counted() {
    let web = with_dead();
    let Some(socket) = web.client.run(|| Socket::mptcp(libc::AF_INET)).unwrap() else { return };
    assert!(web.client.run(|| socket.connect(at(DEAD))).is_err());
    drop(socket);
    eventually("the end of the connection", || {
        let seen = seen_of_dead(&web);
        holds((seen.opened, seen.active) == (1, 0), format!("{seen:?}"))
    });
}

#[test]
fn failures_show_at_the_backend_and_in_the_listings() {
    let web = with_dead();
    assert!(web.client.run(|| TcpStream::connect(at(DEAD))).is_err());
    for to in forms() {
        let (mut client, mut server) = web.connection(to);
        super::transfer(&mut client, &mut server, 2_048);
    }
    let agent = web.cluster.agent();
    let listing: serde_json::Value =
        serde_json::from_str(&agent.cli(&["backends", "default/dead", "-o", "json"]).unwrap())
            .unwrap();
    let backends = listing["items"][0]["backends"].as_array().unwrap();
    let refused: u64 =
        backends.iter().map(|backend| backend["failed"]["refused"].as_u64().unwrap()).sum();
    assert_eq!(refused, 1, "{listing:#}");
    let table = agent.cli(&["backends", "default/web", "-o", "wide"]).unwrap();
    assert!(table.contains("RETRANSMITTED") && table.contains("4.0K"), "{table}");
    let table = agent.cli(&["services", "-o", "wide"]).unwrap();
    assert!(table.contains("RTT P99") && table.contains("6.0K"), "{table}");
}
