//! Sockets that several processes or threads use.

use std::{collections::BTreeSet, net::SocketAddr, os::fd::AsFd, process::Command};

use sockline_testbed::{Service, Socket, UdpClient, WebAndEmptyService, at};

use super::{V4, talk};

#[test]
fn a_socket_outlives_the_process_that_shares_it() {
    let setup = WebAndEmptyService::new().unwrap();
    setup.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        socket.connect(at(V4)).unwrap();
        // A child that has the socket as its standard input, and closes it by ending.
        let copy = socket.as_fd().try_clone_to_owned().unwrap();
        assert!(Command::new("true").stdin(copy).status().unwrap().success());
        assert_eq!(socket.peer().unwrap(), at(V4));
        setup.cluster.wait_for_sockets(1).unwrap();
        assert_eq!(talk(&socket.into_std()), "web");
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn a_child_that_inherits_a_socket_sees_the_same_peer() {
    let setup = WebAndEmptyService::new().unwrap();
    setup.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        socket.connect(at(V4)).unwrap();
        let copy = socket.as_fd().try_clone_to_owned().unwrap();
        // The parent's descriptor is closed first.
        let mut child = Command::new("sleep").arg("60").stdin(copy).spawn().unwrap();
        drop(socket);
        setup.cluster.wait_for_sockets(1).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn many_threads_that_connect_at_once_each_have_their_own_record() {
    let mut setup = WebAndEmptyService::new().unwrap();
    let pods = setup.cluster.pods("many", 6).unwrap();
    let _servers: Vec<_> = pods.iter().map(|pod| pod.udp_server(53).unwrap()).collect();
    let services: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(n, pod)| {
            let name = pod.name();
            Service::new(name).ip(&format!("10.96.2.{n}")).udp(53).endpoints([pod])
        })
        .collect();
    setup.cluster.apply(services).unwrap();
    setup.client.run(|| {
        std::thread::scope(|threads| {
            for (n, pod) in pods.iter().enumerate() {
                let to = SocketAddr::from(([10, 96, 2, u8::try_from(n).unwrap()], 53));
                let own = pod.name();
                threads.spawn(move || {
                    for _ in 0..200 {
                        let client = UdpClient::connected(to).unwrap();
                        assert_eq!(client.socket().peer_addr().unwrap(), to);
                        let reply = client.ask("x").unwrap();
                        assert_eq!((reply.who.as_str(), reply.from), (own, to));
                    }
                });
            }
        });
    });
    setup.cluster.wait_for_sockets(0).unwrap();
}

#[test]
fn a_socket_shared_by_threads_receives_from_the_address_of_each_service() {
    // All answers together must fit in the socket's buffer: about 270 do.
    const EACH: usize = 60;
    let mut setup = WebAndEmptyService::new().unwrap();
    let pods = setup.cluster.pods("many", 3).unwrap();
    let _servers: Vec<_> = pods.iter().map(|pod| pod.udp_server(53).unwrap()).collect();
    let address = |n: usize| SocketAddr::from(([10, 96, 2, u8::try_from(n).unwrap()], 53));
    let services: Vec<_> = (0..3)
        .map(|n| {
            let service = Service::new(&format!("s{n}")).ip(&address(n).ip().to_string());
            service.udp(53).endpoints([&pods[n]])
        })
        .collect();
    setup.cluster.apply(services).unwrap();
    setup.client.run(|| {
        let client = UdpClient::unconnected(at(V4).ip()).unwrap();
        std::thread::scope(|threads| {
            for n in 0..3 {
                let client = &client;
                threads.spawn(move || {
                    for _ in 0..EACH {
                        client.socket().send_to(format!("{n}").as_bytes(), address(n)).unwrap();
                    }
                });
            }
            let seen: BTreeSet<_> = (0..3 * EACH)
                .map(|_| client.receive().unwrap())
                .map(|reply| (reply.payload, reply.who, reply.from))
                .collect();
            let wanted = (0..3).map(|n| (n.to_string(), format!("many-{n}"), address(n)));
            assert_eq!(seen, wanted.collect());
        });
    });
}
