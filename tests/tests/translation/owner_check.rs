//! An entry that belongs to another service is never used, whatever the reason that it is there.
//!
//! Programs find such an entry only if it is reused while they read it, which no test can time. So these
//! tests write it into the map.

use std::{io::ErrorKind, net::IpAddr};

use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use sockline::dataplane::Pins;
use sockline_ebpf::{
    backend::{BACKEND_SEGMENT, Backend},
    id::ServiceId,
};
use sockline_testbed::{Protocol, Service, TwoServices, UdpClient, at};

const A: &str = TwoServices::A;
const B: &str = TwoServices::B;

/// Services a and b, of one pod each.
fn two_services(describe: impl Fn(Service) -> Service) -> TwoServices {
    let mut setup = TwoServices::new(1, 1).unwrap();
    let services = [TwoServices::a(&setup.a), TwoServices::b(&setup.b)].map(describe);
    setup.cluster.apply(services).unwrap();
    setup
}

/// Swaps the entries of the backends of a and b; the slots keep their indices.
fn swap_backends(setup: &TwoServices) {
    let path = Pins::in_bpffs(setup.cluster.node().bpffs()).map("BACKENDS");
    let segments = Map::ArrayOfMaps(MapData::from_pin(path).unwrap());
    let segments = ArrayOfMaps::<MapData, MapData>::try_from(segments).unwrap();
    let segment = Map::Array(segments.get(&0, 0).unwrap());
    let mut segment = Array::<MapData, Backend>::try_from(segment).unwrap();
    let used: Vec<(u32, Backend)> = (0..BACKEND_SEGMENT)
        .map(|id| (id, segment.get(&id, 0).unwrap()))
        .filter(|(_, backend)| backend.service != ServiceId::NONE)
        .collect();
    assert_eq!(used.len(), 4, "two services of two protocols: {used:?}");
    // A backend with the other address, of the other service.
    for (n, (id, backend)) in used.iter().enumerate() {
        let other = used
            .iter()
            .map(|(_, other)| *other)
            .cycle()
            .skip(n + 1)
            .find(|other| IpAddr::from(other.address) != IpAddr::from(backend.address));
        segment.set(*id, other.unwrap(), 0).unwrap();
    }
}

fn assert_nobody_was_reached(setup: &TwoServices) {
    let hits: Vec<_> = setup.servers.iter().map(|(tcp, udp)| (tcp.hits(), udp.hits())).collect();
    assert_eq!(hits, [(0, 0), (0, 0)]);
}

fn faults(setup: &TwoServices, fault: &str) -> f64 {
    let metrics = setup.cluster.metrics().unwrap();
    metrics.sum("sockline_kernel_faults_total", &[("fault", fault)])
}

#[test]
fn a_connect_is_not_translated_rather_than_sent_to_another_services_pod() {
    let setup = two_services(|service| service);
    swap_backends(&setup);
    let mut capture = setup.client.capture().unwrap();
    for (name, to) in [("a", A), ("b", B)] {
        let error = setup.client.tcp_ask(at(to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{name}: {error}");
        assert!(capture.packets(|flow| flow.dst == at(to)).unwrap() > 0, "{:?}", capture.flows());
        let counts = setup.cluster.counts(name, Protocol::Tcp).unwrap();
        assert_eq!((counts.failed_open, counts.translated), (1, 0), "{name}: {counts:?}");
    }
    assert_nobody_was_reached(&setup);
    assert_eq!(faults(&setup, "owner-mismatch"), 2.0);
    assert_eq!(faults(&setup, "stale-entry"), 4.0, "each call looked twice");
}

#[test]
fn a_client_with_affinity_is_not_sent_to_another_services_pod() {
    let setup = two_services(|service| service.sticky(3600));
    swap_backends(&setup);
    for to in [A, B] {
        let error = setup.client.tcp_ask(at(to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{to}: {error}");
    }
    assert_nobody_was_reached(&setup);
}

#[test]
fn a_socket_that_has_a_backend_does_not_follow_it_to_another_service() {
    let setup = two_services(|service| service);
    let client = setup.client.run(|| UdpClient::unconnected(at(A).ip()).unwrap());
    assert_eq!(client.ask_to(at(A), "x").unwrap().who, "a-0");
    swap_backends(&setup);
    let mut capture = setup.client.capture().unwrap();
    client.socket().send_to(b"x", at(A)).unwrap();
    assert_eq!(capture.packets(|flow| flow.dst == at(A)).unwrap(), 1, "{:?}", capture.flows());
    assert_eq!(setup.servers[1].1.hits(), 0);
}
