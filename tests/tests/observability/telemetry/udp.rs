//! UDP flows: a socket and the backend that it has for a service.

use sockline_testbed::{Protocol, Service, Socket, UdpClient};

use super::{CountedWeb, Seen, at, counts, family, forms};

const OTHER: &str = "10.96.0.3:80";

fn seen(web: &CountedWeb) -> Seen {
    Seen::of(&web.cluster, "web", Protocol::Udp)
}

#[track_caller]
fn assert_flows(web: &CountedWeb, expected: &Seen) {
    super::assert_counted(&web.cluster, "web", Protocol::Udp, expected);
}

fn flows(active: u64, closed: u64) -> Seen {
    let ended = if closed > 0 { counts([("client", closed)]) } else { counts([]) };
    Seen { opened: active + closed, active, closed: ended, lifetimes: closed, ..Seen::default() }
}

#[test]
fn a_flow_is_active_until_its_socket_is_closed() {
    let web = CountedWeb::new();
    let _server = web.web.udp_server(8080).unwrap();
    let clients = forms().map(|to| web.client.run(|| UdpClient::connected(to)).unwrap());
    for client in &clients {
        client.ask("?").unwrap();
    }
    assert_flows(&web, &flows(3, 0));
    drop(clients);
    assert_flows(&web, &flows(0, 3));
}

#[test]
fn a_socket_that_connects_again_ends_a_flow_and_begins_one() {
    let web = CountedWeb::new();
    let socket = web.client.run(|| Socket::udp(libc::AF_INET)).unwrap();
    for n in 0..5 {
        web.client.run(|| socket.connect(at(super::V4))).unwrap();
        // The flow to the peer stays until the next call, since a connect may fail.
        let seen = seen(&web);
        assert_eq!(seen.opened, n + 1, "{seen:?}");
        assert!((1..=2).contains(&seen.active), "{seen:?}");
    }
    drop(socket);
    assert_flows(&web, &flows(0, 5));
}

#[test]
fn a_socket_that_sends_to_many_services_has_a_flow_to_each() {
    let mut web = CountedWeb::new();
    let other = Service::new("other").ip("10.96.0.3").udp(80).to(8080).endpoints([&web.web]);
    let many = (0..40_u8).map(|n| {
        let ip = format!("10.96.1.{n}");
        Service::new(&format!("many-{n}"))
            .ip(&ip)
            .udp(80)
            .to(8100 + u16::from(n))
            .endpoints([&web.web])
    });
    web.cluster.apply(many.chain([other])).unwrap();
    let socket = web.client.run(|| Socket::udp(libc::AF_INET)).unwrap();
    let send = |to: &str| web.client.run(|| socket.send_to(b"x", at(to), 0).unwrap());
    send(super::V4);
    // The same backend at another service: an answer could be for either.
    send(OTHER);
    assert_flows(&web, &flows(0, 1));
    for n in 0..40 {
        send(&format!("10.96.1.{n}:80"));
    }
    // Beyond the table and socket storage, the oldest are forgotten.
    drop(socket);
    crate::common::eventually("the end of all flows", || {
        let metrics = web.cluster.metrics().unwrap();
        let mut all = Seen::default();
        for n in 0..40 {
            let seen = Seen::in_metrics(&metrics, &format!("many-{n}"), Protocol::Udp);
            all.opened += seen.opened;
            all.active += seen.active;
            all.untracked += seen.untracked;
        }
        let is_all = (all.opened, all.active) == (40, 0) && all.untracked > 0;
        crate::common::holds(is_all, format!("{all:?}"))
    });
}

#[test]
fn a_flow_ends_when_its_backend_is_dialled_directly() {
    let web = CountedWeb::new();
    let socket = web.client.run(|| Socket::udp(libc::AF_INET)).unwrap();
    let backend = std::net::SocketAddr::new(web.web.addresses()[0], 8080);
    web.client.run(|| {
        socket.send_to(b"x", at(super::V4), 0).unwrap();
        socket.send_to(b"x", at(super::V4), 0).unwrap();
        assert_flows(&web, &flows(1, 0));
        let _ = socket.send_to(b"x", backend, 0);
    });
    assert_flows(&web, &flows(0, 1));
    drop(socket);
    assert_flows(&web, &flows(0, 1));
}

#[test]
fn a_refusal_that_the_application_has_not_fetched_is_counted() {
    let web = CountedWeb::new();
    for to in [at(super::V4), at(super::V6)] {
        let socket = web.client.run(|| Socket::udp(family(to))).unwrap();
        web.client.run(|| socket.connect(to)).unwrap();
        nix::sys::socket::send(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            b"x",
            nix::sys::socket::MsgFlags::empty(),
        )
        .unwrap();
        crate::common::eventually("the ICMP error", || {
            let mut wait = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&socket),
                nix::poll::PollFlags::empty(),
            )];
            match nix::poll::poll(&mut wait, nix::poll::PollTimeout::ZERO) {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        drop(socket);
    }
    crate::common::eventually("two refusals", || {
        let seen = seen(&web);
        crate::common::holds(seen.failed == counts([("refused", 2)]), format!("{seen:?}"))
    });
}
