//! Connected UDP sockets are closed at once, so that their applications connect again. Unconnected ones, and those
//! that have since gone elsewhere, are not.

use std::{io, net::SocketAddr, os::fd::AsFd as _};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt::SocketError},
};
use sockline_testbed::{DnsPods, Ns, Pod, UdpClient, at, mapped, objects};

use super::{Closing as _, V4, V6, ask, connected, eventually_closed, with_service};
use crate::common::{WebNode, eventually, holds, options, series};

#[test]
fn cilium_48096_calico_4509_a_connected_udp_socket_does_not_stay_on_a_dead_backend() {
    for to in [at(V4), at(V6), mapped(at(V4))] {
        let mut setup = with_service(2, &[]);
        let (client, first) = connected(&setup.client, to);
        setup.remove(&first);
        eventually_closed(&client);
        // As a resolver does after an error.
        setup.client.run(|| client.socket().connect(to).unwrap());
        let second = ask(&client);
        assert_ne!(second, first, "{to}");
        assert_eq!(client.socket().peer_addr().unwrap(), to);
        setup.eventually_counted("UDP", 1.0);
        assert_eq!(setup.closed("TCP"), 0.0, "{to}");
    }
}

#[test]
fn a_client_that_waits_for_an_answer_gets_an_error_at_once() {
    let mut setup = with_service(1, &[]);
    let (client, first) = connected(&setup.client, at(V4));
    let waiting = setup.client.spawn(move || client.receive().unwrap_err()).unwrap();
    setup.remove(&first);
    let error = waiting.join();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED), "{error}");
}

/// The table in `deploy/docs/reliability.md`.
#[test]
fn the_calls_of_an_application_on_a_closed_socket_return_what_is_documented() {
    let mut setup = with_service(2, &[]);
    let (client, first) = connected(&setup.client, at(V4));
    let port = client.socket().local_addr().unwrap().port();
    setup.remove(&first);
    let polled = setup.client.run(|| {
        let mut fds = [PollFd::new(client.socket().as_fd(), PollFlags::POLLPRI)];
        poll(&mut fds, PollTimeout::from(20_000_u16)).unwrap();
        fds[0].revents().unwrap()
    });
    assert!(polled.contains(PollFlags::POLLERR), "{polled:?}");
    let code = |error: io::Error| error.raw_os_error().unwrap();
    for _ in 0..2 {
        assert_eq!(code(client.socket().send(b"?").unwrap_err()), libc::EDESTADDRREQ);
        assert_eq!(code(client.socket().peer_addr().unwrap_err()), libc::ENOTCONN);
    }
    setup.client.run(|| client.socket().connect(at(V4)).unwrap());
    assert_eq!(client.socket().peer_addr().unwrap(), at(V4));
    assert_ne!(client.socket().local_addr().unwrap().port(), port);
    assert_eq!(code(client.socket().send(b"?").unwrap_err()), libc::ECONNABORTED, "once");
    let second = ask(&client);
    assert_ne!(second, first);

    setup.cluster.apply([DnsPods::service().endpoints(setup.without(&second))]).unwrap();
    let aborted = eventually("the error of the socket", || {
        client.socket().take_error().unwrap().ok_or("none")
    });
    assert_eq!(code(aborted), libc::ECONNABORTED);
    assert_eq!(code(client.socket().send(b"?").unwrap_err()), libc::EDESTADDRREQ);
}

#[test]
fn sockets_are_closed_in_every_network_namespace_and_in_the_nodes_own() {
    let mut setup = with_service(1, &[]);
    let other = setup.cluster.pod("other").unwrap();
    let namespaces: [&Ns; 3] = [&setup.client, &other, setup.cluster.node()];
    let clients = namespaces.map(|ns| connected(ns, at(V4)).0);
    setup.remove("dns-0");
    clients.iter().for_each(eventually_closed);
    eventually("all of them to be counted", || {
        let closed = setup.closed("UDP");
        holds(closed == 3.0, format!("{closed} closed"))
    });
}

#[test]
fn cilium_42658_42649_an_unrelated_socket_to_the_same_backend_is_not_closed() {
    let mut setup = with_service(1, &[]);
    let pod = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    let (stranger, _) = connected(&setup.client, pod);
    let port = stranger.socket().local_addr().unwrap();
    let (client, _) = connected(&setup.client, at(V4));
    setup.remove("dns-0");
    eventually_closed(&client);
    setup.wait_for_passes();
    assert_eq!(ask(&stranger), "dns-0");
    assert_eq!(stranger.socket().local_addr().unwrap(), port);
    setup.eventually_counted("UDP", 1.0);
}

#[test]
fn cilium_48564_an_unconnected_socket_is_not_closed_and_keeps_its_port() {
    let mut setup = with_service(2, &[]);
    let unconnected = setup.client.run(|| UdpClient::unconnected(at(V4).ip()).unwrap());
    let ask_unconnected = || setup.client.run(|| unconnected.ask_to(at(V4), "?").unwrap());
    let first = ask_unconnected().who;
    let port = unconnected.socket().local_addr().unwrap();
    // Its closing shows that the agent has looked at the sockets.
    let (client, of_client) = connected(&setup.client, at(V4));
    let rest: Vec<&Pod> = setup.without(&first);
    let rest: Vec<&Pod> = rest.into_iter().filter(|pod| pod.name() != of_client).collect();
    let service = DnsPods::service().endpoints(rest);
    setup.cluster.apply([service]).unwrap();
    eventually_closed(&client);
    setup.wait_for_passes();
    assert_eq!(getsockopt(unconnected.socket(), SocketError).unwrap(), 0);
    assert_eq!(unconnected.socket().local_addr().unwrap(), port);
    setup.cluster.apply([DnsPods::service().endpoints(&setup.pods)]).unwrap();
    let reply = setup.client.run(|| unconnected.ask_to(at(V4), "?").unwrap());
    assert_eq!(reply.from, at(V4));
    assert_eq!(unconnected.socket().local_addr().unwrap(), port);
    setup.eventually_counted("UDP", 1.0);
}

#[test]
fn a_socket_that_has_since_connected_elsewhere_is_not_closed() {
    let mut setup = with_service(2, &[]);
    let (client, first) = connected(&setup.client, at(V4));
    let other = setup.without(&first)[0];
    let elsewhere = SocketAddr::new(other.addresses()[0], 5353);
    setup.client.run(|| client.socket().connect(elsewhere).unwrap());
    let (sign, _) = loop {
        let (sign, who) = connected(&setup.client, at(V4));
        if who == first {
            break (sign, who);
        }
    };
    setup.remove(&first);
    eventually_closed(&sign);
    setup.wait_for_passes();
    assert_eq!(ask(&client), setup.without(&first)[0].name());
}

#[test]
fn a_socket_that_has_since_dialled_its_backend_directly_is_not_closed() {
    for args in [&[][..], &["--without-features", "compare-and-swap"]] {
        let mut setup = with_service(1, args);
        let (client, first) = connected(&setup.client, at(V4));
        let (sign, _) = connected(&setup.client, at(V4));
        let direct = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
        setup.client.run(|| client.socket().connect(direct).unwrap());
        setup.remove(&first);
        eventually_closed(&sign);
        setup.wait_for_passes();
        assert_eq!(ask(&client), first, "{args:?}");
        setup.eventually_counted("UDP", 1.0);
    }
}

#[test]
fn the_next_agent_finds_a_backend_that_was_removed_without_an_agent() {
    let node = WebNode::new(1);
    node.put_service("cart", "10.96.0.1");
    let mut agent = node.start_agent();
    let (client, _) = connected(&node.client, at("10.96.0.1:53"));
    agent.kill().unwrap();
    let slice = objects::slice("cart", &[]);
    let service = objects::service("cart", "10.96.0.1");
    node.put("cart.yaml", &[service, slice]);
    assert_eq!(ask(&client), "web-0", "no agent was there to close it");
    let _next = node.start_agent();
    eventually_closed(&client);
}

#[test]
fn nothing_is_closed_while_the_source_cannot_be_read_in_full() {
    let node = WebNode::new(1);
    node.put_service("cart", "10.96.0.1");
    let mut agent = node.start_agent();
    let (client, _) = connected(&node.client, at("10.96.0.1:53"));
    agent.kill().unwrap();
    node.put_text("cart.yaml", "]");
    let next = node.agent(&options(&[])).unwrap();
    let looked =
        || series(&next.metrics().unwrap(), "sockline_sync_duration_seconds_count").unwrap();
    let before = looked();
    node.put_service("other", "10.96.0.2");
    eventually("another sync", || holds(looked() > before, looked()));
    assert_eq!(ask(&client), "web-0");
    node.remove("cart.yaml");
    eventually_closed(&client);
}
