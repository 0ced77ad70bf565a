//! Connected sockets: the peer is what was last connected to.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    process::Command,
};

use sockline_testbed::{
    ANSWER_TIMEOUT, Cluster, DEADLINE, DnsPods, Endpoint, Pod, Service, Socket, UdpClient, at,
    patience, wait_ok,
};

use super::{V4, V6, numbered, one_service, service_per_pod};

#[test]
fn a_connected_socket_talks_to_the_service_over_both_families() {
    let setup = one_service(1);
    for (to, own) in [V4, V6].into_iter().zip(setup.client.addresses()) {
        setup.client.run(|| {
            let client = UdpClient::connected(at(to)).unwrap();
            assert_eq!(client.socket().peer_addr().unwrap(), at(to));
            let reply = client.ask("x").unwrap();
            assert_eq!((reply.who.as_str(), reply.from), ("dns-0", at(to)));
        });
        assert_eq!(setup.servers[0].0.peers().last().unwrap().ip(), *own);
    }
}

#[test]
fn a_second_connect_goes_to_the_other_service() {
    let setup = service_per_pod(2);
    setup.client.run(|| {
        let client = UdpClient::connected(numbered(0)).unwrap();
        assert_eq!(client.ask("x").unwrap().who, "dns-0");
        client.socket().connect(numbered(1)).unwrap();
        let reply = client.ask("x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-1", numbered(1)));
        assert_eq!(client.socket().peer_addr().unwrap(), numbered(1));
    });
}

#[test]
fn a_second_connect_to_another_service_of_the_same_pod_has_the_new_peer_name() {
    let mut setup = DnsPods::new(1).unwrap();
    let twin = |name: &str, ip: &str| Service::new(name).ip(ip).udp(53).to(5353);
    let services = [twin("a", "10.96.1.0"), twin("b", "10.96.1.1")];
    setup.cluster.apply(services.map(|service| service.endpoints(&setup.pods))).unwrap();
    setup.client.run(|| {
        let client = UdpClient::connected(numbered(0)).unwrap();
        for n in [1, 0, 1] {
            client.socket().connect(numbered(n)).unwrap();
            assert_eq!(client.socket().peer_addr().unwrap(), numbered(n));
            assert_eq!(client.ask("x").unwrap().from, numbered(n));
        }
    });
}

#[test]
fn a_second_connect_straight_to_the_pod_has_the_pods_peer_name() {
    let setup = one_service(1);
    let pod = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    setup.client.run(|| {
        let client = UdpClient::connected(at(V4)).unwrap();
        client.socket().connect(pod).unwrap();
        assert_eq!(client.socket().peer_addr().unwrap(), pod);
        let reply = client.ask("x").unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("dns-0", pod));
    });
}

#[test]
fn a_socket_disconnected_with_af_unspec_can_send_to_any_address() {
    let setup = service_per_pod(2);
    let pod = SocketAddr::new(setup.pods[0].addresses()[0], 5353);
    setup.client.run(|| {
        let socket = Socket::udp(libc::AF_INET).unwrap();
        socket.connect(numbered(0)).unwrap();
        socket.disconnect().unwrap();
        let error = socket.peer().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "{error}");
        let socket: UdpSocket = socket.into_std();
        for (to, who) in [(numbered(1), "dns-1:x"), (numbered(0), "dns-0:x"), (pod, "dns-0:x")] {
            socket.send_to(b"x", to).unwrap();
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((from, std::str::from_utf8(&buffer[..length])), (to, Ok(who)));
        }
    });
}

#[test]
fn a_socket_connected_to_one_service_can_send_to_another() {
    let setup = service_per_pod(2);
    setup.client.run(|| {
        let client = UdpClient::connected(numbered(0)).unwrap();
        client.socket().send_to(b"x", numbered(1)).unwrap();
        // The kernel lets only the connected peer answer.
        assert_eq!(client.ask("y").unwrap().from, numbered(0));
    });
    wait_ok(DEADLINE, "the other service's pod to hear of it", || {
        let hits = setup.servers[1].0.hits();
        if hits == 1 { Ok(()) } else { Err(hits) }
    })
    .unwrap();
}

#[test]
fn each_connect_on_one_socket_chooses_again() {
    let setup = one_service(4);
    let seen: BTreeSet<String> = setup.client.run(|| {
        let client = UdpClient::connected(at(V4)).unwrap();
        let mut once = |_| {
            client.socket().connect(at(V4)).unwrap();
            client.ask("x").unwrap().who
        };
        (0..60).map(&mut once).collect()
    });
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_connected_socket_that_also_names_the_pod_keeps_its_peer_name() {
    let setup = one_service(1);
    for (to, pod) in [V4, V6].into_iter().zip(setup.pods[0].addresses()) {
        setup.client.run(|| {
            let client = UdpClient::connected(at(to)).unwrap();
            client.ask_to(SocketAddr::new(*pod, 5353), "x").unwrap();
            assert_eq!(client.socket().peer_addr().unwrap(), at(to));
        });
    }
}

/// Removes a route to an address, or restores it.
fn route(pod: &Pod, verb: &str, to: &str) {
    let mut command = Command::new("ip");
    let done = pod.output(command.args(["route", verb, "unreachable", to])).unwrap();
    assert!(done.status.success(), "ip route {verb} {to}: {done:?}");
}

/// The kernel leaves a connected socket as it is when a further connect fails.
#[test]
fn a_connect_that_fails_leaves_the_connection_with_its_peer_name() {
    for args in [&[][..], &["--without-features", "compare-and-swap"]] {
        let mut cluster = Cluster::with_agent_args(args).unwrap();
        let (pod, client) = (cluster.pod("dns-0").unwrap(), cluster.pod("client").unwrap());
        let _server = pod.udp_server(5353).unwrap();
        route(&client, "add", "10.99.0.1/32");
        let nowhere = Endpoint::at(&[[10, 99, 0, 1].into()]);
        let endpoints = [Endpoint::from(&pod), nowhere];
        cluster.apply([DnsPods::service().endpoints(endpoints)]).unwrap();
        client.run(|| {
            let socket: UdpSocket = Socket::udp(libc::AF_INET).unwrap().into_std();
            socket.set_read_timeout(Some(patience(ANSWER_TIMEOUT))).unwrap();
            let (mut connected, mut failed) = (false, 0);
            // Each outcome of a connect has a chance of one in two: not 20 of one kind in a row.
            for _ in 0..100 {
                match socket.connect(at(V4)) {
                    Ok(()) => connected = true,
                    Err(_) if connected => failed += 1,
                    Err(_) => continue,
                }
                assert_eq!(socket.peer_addr().unwrap(), at(V4), "{args:?}, {failed} failed");
                socket.send(b"x").unwrap();
                let mut buffer = [0; 64];
                let (_, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from, at(V4), "{args:?}, {failed} failed");
                // A datagram that names the service goes to the peer, too: the kernel accepts no other
                // sender.
                socket.send_to(b"x", at(V4)).unwrap();
                socket.recv_from(&mut buffer).unwrap();
            }
            assert!(connected && failed > 0);
        });
    }
}
