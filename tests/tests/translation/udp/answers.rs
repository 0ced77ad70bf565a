//! Unconnected sockets: each answer comes from the address that was called.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use sockline_testbed::{DEADLINE, Protocol, Socket, UdpClient, at, to_std, wait_ok};

use super::{V4, V6, ask, numbered, one_service, service_per_pod, unconnected};

#[test]
fn an_unconnected_socket_gets_answers_from_the_service_over_both_families() {
    let setup = one_service(1);
    for (to, own) in [V4, V6].into_iter().zip(setup.client.addresses()) {
        let reply = setup.client.udp_ask(at(to), "x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-0", at(to)));
        assert_eq!(setup.servers[0].0.peers().last().unwrap().ip(), *own);
    }
}

#[test]
fn no_packet_ever_has_the_service_address() {
    let setup = one_service(1);
    let mut capture = setup.client.capture().unwrap();
    for to in [V4, V6] {
        setup.client.udp_ask(at(to), "x").unwrap();
        setup.client.run(|| UdpClient::connected(at(to)).unwrap().ask("x").unwrap());
        assert_eq!(capture.packets_of(at(to).ip()).unwrap(), 0, "{:?}", capture.flows());
    }
    let to_pod = |flow: &sockline_testbed::Flow| flow.dst.port() == 5353;
    assert_eq!(capture.packets(to_pod).unwrap(), 4, "{:?}", capture.flows());
}

#[test]
fn a_datagram_to_an_address_that_is_no_service_is_not_translated() {
    let setup = one_service(1);
    let mut capture = setup.client.capture().unwrap();
    for to in [at("10.96.0.11:53"), at("10.96.0.10:54"), at("[fd00:96::10]:54")] {
        setup.client.run(|| {
            let any = UdpClient::unconnected(to.ip()).unwrap();
            any.socket().send_to(b"x", to).unwrap();
            UdpClient::connected(to).unwrap().socket().send(b"x").unwrap();
        });
        assert_eq!(capture.packets(|flow| flow.dst == to).unwrap(), 2, "{to}");
    }
    let counts = setup.cluster.counts("dns", Protocol::Udp).unwrap();
    assert_eq!(counts, sockline_testbed::Counts::default());
}

#[test]
fn each_answer_comes_from_the_service_that_was_called() {
    let setup = service_per_pod(4);
    setup.client.run(|| {
        let client = unconnected();
        for n in 0..4 {
            client.socket().send_to(format!("{n}").as_bytes(), numbered(n)).unwrap();
        }
        // Sent before any was received, so the order is the network's.
        let replies: BTreeSet<_> = (0..4)
            .map(|_| client.receive().unwrap())
            .map(|reply| (reply.payload, reply.who, reply.from))
            .collect();
        let wanted: BTreeSet<_> =
            (0..4).map(|n| (n.to_string(), format!("dns-{n}"), numbered(n))).collect();
        assert_eq!(replies, wanted);
    });
}

#[test]
fn each_message_of_one_call_goes_to_its_service_and_is_answered_from_it() {
    const COUNT: usize = 6;
    let setup = service_per_pod(3);
    let target = |n: usize| numbered(n % 3);
    let got: BTreeMap<String, SocketAddr> = setup.client.run(|| {
        let socket = Socket::udp(libc::AF_INET).unwrap();
        let payloads: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
        let slices: Vec<_> = payloads.iter().map(|p| [IoSlice::new(p.as_bytes())]).collect();
        let to: Vec<_> = (0..COUNT).map(|n| Some(SockaddrStorage::from(target(n)))).collect();
        let mut headers = MultiHeaders::preallocate(COUNT, None);
        let none = MsgFlags::empty();
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &to, [], none).unwrap();
        assert_eq!(sent.count(), COUNT);

        let mut got = BTreeMap::new();
        wait_ok(DEADLINE, "all answers", || {
            let mut buffers = [[0_u8; 64]; COUNT];
            let mut slices: Vec<_> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
            let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(COUNT, None);
            let flags = MsgFlags::MSG_DONTWAIT;
            let heard = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None);
            let heard: Vec<_> = heard
                .map(|all| all.map(|one| (one.bytes, one.address)).collect())
                .unwrap_or_default();
            for (buffer, (length, from)) in buffers.iter().zip(heard) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                got.insert(text, to_std(&from.unwrap()).unwrap());
            }
            if got.len() == COUNT { Ok(()) } else { Err(format!("only {got:?}")) }
        })
        .unwrap();
        got
    });
    let wanted = (0..COUNT).map(|n| (format!("dns-{}:{n}", n % 3), target(n)));
    assert_eq!(got, wanted.collect());
}

#[test]
fn an_answer_to_a_datagram_straight_to_the_pod_comes_from_the_pod() {
    let setup = one_service(1);
    let pod = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    setup.client.run(|| {
        let client = unconnected();
        // Whatever was asked last: the address of the service, or of the pod that is behind it.
        for to in [pod, at(V4), pod, pod, at(V4), at(V4), pod] {
            assert_eq!(ask(&client, to), "dns-0");
        }
    });
}

#[test]
fn an_answer_to_a_datagram_straight_to_the_pod_comes_from_the_pod_after_an_overflow() {
    let setup = service_per_pod(8);
    setup.client.run(|| {
        let client = unconnected();
        for n in 0..8 {
            ask(&client, numbered(n));
        }
        for (n, pod) in setup.pods.iter().enumerate() {
            ask(&client, SocketAddr::new(pod.addresses()[0], 5353));
            ask(&client, numbered(n));
        }
    });
}

#[test]
fn five_hundred_sockets_at_once_each_receive_from_the_service() {
    let setup = one_service(3);
    let clients: Vec<_> = setup.client.run(|| {
        let clients: Vec<_> = (0..500).map(|_| unconnected()).collect();
        for (n, client) in clients.iter().enumerate() {
            client.socket().send_to(format!("{n}").as_bytes(), at(V4)).unwrap();
        }
        for (n, client) in clients.iter().enumerate() {
            let reply = client.receive().unwrap();
            assert_eq!((reply.from, reply.payload), (at(V4), n.to_string()));
        }
        clients
    });
    setup.cluster.wait_for_sockets(500).unwrap();
    drop(clients);
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn a_client_in_the_hosts_namespace_is_served_too() {
    let setup = one_service(1);
    for to in [V4, V6] {
        let reply = setup.cluster.node().udp_ask(at(to), "x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-0", at(to)));
    }
}
