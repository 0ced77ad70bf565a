//! An entry that belongs to another service is never used, whatever the reason that it is there.
//!
//! Programs find such an entry only if it is reused while they read it, which no test can time. So these
//! tests write it into the map.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
};

use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use sockline::dataplane::Pins;
use sockline_ebpf::{
    backend::{BACKEND_SEGMENT, Backend},
    id::ServiceId,
};
use sockline_testbed::{Cluster, Pod, Protocol, Service, TcpServer, UdpClient, UdpServer};

const A: &str = "10.96.0.1:80";
const B: &str = "10.96.0.2:80";

struct TwoServices {
    servers: Vec<(TcpServer, UdpServer)>,
    client: Pod,
    cluster: Cluster,
}

impl TwoServices {
    /// Services a and b, of one pod each.
    fn new(describe: impl Fn(Service) -> Service) -> Self {
        let mut cluster = Cluster::new().unwrap();
        let client = cluster.pod("client").unwrap();
        let pods = cluster.pods("pod", 2).unwrap();
        let serve = |pod: &Pod| (pod.tcp_server(80).unwrap(), pod.udp_server(80).unwrap());
        let servers = pods.iter().map(serve).collect();
        let service = |name: &str, to: &str, pod: &Pod| {
            let ip = at(to).ip().to_string();
            describe(Service::new(name).ip(&ip).tcp(80).udp(80).endpoints([pod]))
        };
        cluster.apply([service("a", A, &pods[0]), service("b", B, &pods[1])]).unwrap();
        Self { servers, client, cluster }
    }

    /// Swaps the entries of the backends of a and b; the slots keep their indices.
    fn swap_backends(&self) {
        let path = Pins::in_bpffs(self.cluster.node().bpffs()).map("BACKENDS");
        let outer = Map::ArrayOfMaps(MapData::from_pin(path).unwrap());
        let outer = ArrayOfMaps::<MapData, MapData>::try_from(outer).unwrap();
        let segment = Map::Array(outer.get(&0, 0).unwrap());
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

    fn assert_nobody_was_reached(&self) {
        let hits: Vec<_> = self.servers.iter().map(|(tcp, udp)| (tcp.hits(), udp.hits())).collect();
        assert_eq!(hits, [(0, 0), (0, 0)]);
    }

    fn faults(&self, fault: &str) -> f64 {
        let metrics = self.cluster.metrics().unwrap();
        metrics.sum("sockline_kernel_faults_total", &[("fault", fault)])
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_connect_is_not_translated_rather_than_sent_to_another_services_pod() {
    let setup = TwoServices::new(|service| service);
    setup.swap_backends();
    let mut capture = setup.client.capture().unwrap();
    for (name, to) in [("a", A), ("b", B)] {
        let error = setup.client.tcp_ask(at(to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{name}: {error}");
        assert!(capture.packets(|flow| flow.dst == at(to)).unwrap() > 0, "{:?}", capture.flows());
        let counts = setup.cluster.counts(name, Protocol::Tcp).unwrap();
        assert_eq!((counts.failed_open, counts.translated), (1, 0), "{name}: {counts:?}");
    }
    setup.assert_nobody_was_reached();
    assert_eq!(setup.faults("owner-mismatch"), 2.0);
    assert_eq!(setup.faults("stale-entry"), 4.0, "each call looked twice");
}

#[test]
fn a_client_with_affinity_is_not_sent_to_another_services_pod() {
    let setup = TwoServices::new(|service| service.sticky(3600));
    setup.swap_backends();
    for to in [A, B] {
        let error = setup.client.tcp_ask(at(to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{to}: {error}");
    }
    setup.assert_nobody_was_reached();
}

#[test]
fn a_socket_that_has_a_backend_does_not_follow_it_to_another_service() {
    let setup = TwoServices::new(|service| service);
    let client = setup.client.run(|| UdpClient::unconnected(at(A).ip()).unwrap());
    assert_eq!(client.ask_to(at(A), "x").unwrap().who, "pod-0");
    setup.swap_backends();
    let mut capture = setup.client.capture().unwrap();
    client.socket().send_to(b"x", at(A)).unwrap();
    assert_eq!(capture.packets(|flow| flow.dst == at(A)).unwrap(), 1, "{:?}", capture.flows());
    assert_eq!(setup.servers[1].1.hits(), 0);
}
