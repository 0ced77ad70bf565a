//! Which backend an unconnected socket talks to, and how long.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sockline_testbed::{
    DEADLINE, DnsPods, Endpoint, Pod, Protocol, Service, UdpClient, at, wait_ok,
};

use super::{V4, ask, one_service, unconnected};

#[test]
fn a_socket_keeps_its_backend() {
    let setup = one_service(8);
    setup.client.run(|| {
        let client = unconnected();
        let first = ask(&client, at(V4));
        for _ in 0..50 {
            assert_eq!(ask(&client, at(V4)), first);
        }
    });
    let counts = setup.cluster.counts("dns", Protocol::Udp).unwrap();
    assert_eq!(counts.translated, 1, "one conversation, however many datagrams");
}

#[test]
fn a_socket_keeps_its_backend_while_others_are_added_and_removed() {
    let mut setup = one_service(6);
    let client = setup.client.run(unconnected);
    let first = ask(&client, at(V4));
    let position = setup.pods.iter().position(|pod| pod.name() == first).unwrap();
    for round in 0..12 {
        // Always its own pod, and a different half of the others each time.
        let pods = setup.pods.iter().enumerate();
        let some = pods.filter(|(n, _)| *n == position || (n + round) % 3 == 0);
        let some: Vec<&Pod> = some.map(|(_, pod)| pod).collect();
        setup.cluster.apply([DnsPods::service().endpoints(some)]).unwrap();
        assert_eq!(ask(&client, at(V4)), first, "round {round}");
    }
}

#[test]
fn a_socket_moves_when_its_backend_is_removed_and_does_not_move_back() {
    let mut setup = one_service(3);
    let client = setup.client.run(unconnected);
    let first = ask(&client, at(V4));
    let others = |first: &str| -> Vec<_> {
        setup.pods.iter().filter(|pod| pod.name() != first).map(Into::into).collect()
    };
    let without: Vec<Endpoint> = others(&first);
    setup.cluster.apply([DnsPods::service().endpoints(without)]).unwrap();
    let second = ask(&client, at(V4));
    assert_ne!(second, first);
    setup.cluster.apply([DnsPods::service().endpoints(&setup.pods)]).unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&client, at(V4)), second, "the endpoint is back, the socket is not");
    }
}

#[test]
fn sockets_of_a_removed_backend_spread_over_the_others() {
    let mut setup = one_service(4);
    let newcomer = setup.cluster.pod("newcomer").unwrap();
    let _server = newcomer.udp_server(5353).unwrap();
    let all: Vec<UdpClient> = setup.client.run(|| (0..120).map(|_| unconnected()).collect());
    let of_first: Vec<_> = all.iter().filter(|client| ask(client, at(V4)) == "dns-0").collect();
    assert!(of_first.len() > 10, "{} of 120", of_first.len());
    setup.cluster.apply([DnsPods::service().endpoints(&setup.pods[1..])]).unwrap();
    // The first sync after a second reclaims its index, and the next one reuses it.
    let since = Instant::now();
    wait_ok(DEADLINE, "time to pass", || {
        let gone = since.elapsed();
        if gone > Duration::from_millis(1200) { Ok(()) } else { Err(format!("{gone:?}")) }
    })
    .unwrap();
    setup.cluster.apply([Service::new("bystander").ip("10.96.9.9").udp(53)]).unwrap();
    let with_newcomer = setup.pods[1..].iter().chain([&newcomer]);
    setup.cluster.apply([DnsPods::service().endpoints(with_newcomer)]).unwrap();
    let seen: BTreeSet<_> = of_first.iter().map(|client| ask(client, at(V4))).collect();
    assert!(seen.len() > 1, "all {} sockets got {seen:?}", of_first.len());
}

#[test]
fn a_socket_keeps_a_draining_backend_no_longer_than_it_is_an_endpoint() {
    let mut setup = one_service(2);
    let client = setup.client.run(unconnected);
    let first = ask(&client, at(V4));
    let endpoints = setup.pods.iter().map(|pod| {
        let endpoint = Endpoint::from(pod);
        if pod.name() == first { endpoint.draining() } else { endpoint }
    });
    let endpoints: Vec<_> = endpoints.collect();
    setup.cluster.apply([DnsPods::service().endpoints(endpoints)]).unwrap();
    assert_ne!(ask(&client, at(V4)), first, "a ready endpoint takes its place");
}

#[test]
fn each_socket_chooses_for_itself() {
    let setup = one_service(4);
    let seen: BTreeSet<String> =
        setup.client.run(|| (0..60).map(|_| ask(&unconnected(), at(V4))).collect());
    // One of them is missing by chance with a probability of 4 × 0.75^60: in one run of eight million.
    assert_eq!(seen.len(), 4, "{seen:?}");
}
