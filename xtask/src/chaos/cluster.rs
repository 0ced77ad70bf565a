//! The cluster: its services, pods and clients.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use anyhow::{Context, Result};
use sockline_testbed::{Endpoint, Node, Pod, Service, api::Api, objects};

use super::{
    clients::Target,
    iproute::ip,
    oracle::{Endpoints, Oracle, PodId, ServiceId},
    servers::{Servers, port_of},
};

pub(super) const SERVICES: usize = 50;
pub(super) const PODS: usize = 30;
pub(super) const CLIENTS: usize = 4;
/// The last services never have an endpoint.
pub(super) const WITHOUT_ENDPOINTS: usize = 3;
/// The service ranges, which are unreachable: an untranslated call fails at once.
pub(super) const UNTRANSLATED: [(&str, &str); 2] =
    [("-4", "10.96.0.0/16"), ("-6", "fd00:10:96::/112")];
/// A service whose endpoint only the harness changes, to see when a change is in the kernel.
pub(super) const MARK: &str = "mark";
pub(super) const MARK_ADDRESS: &str = "10.96.255.1";

pub(super) struct Cluster {
    pub(super) api: Api,
    pub(super) pods: Vec<Pod>,
    pub(super) clients: Vec<Pod>,
    /// The pod that opens many sockets.
    pub(super) socket_holder: Pod,
    pub(super) servers: Servers,
}

impl Cluster {
    pub(super) fn new(node: &Node) -> Result<Self> {
        let pod = |name: String, third: u8, number: usize| {
            let number = u8::try_from(number + 1).context("more pods than addresses")?;
            let v6: IpAddr = format!("fd00:244:{third:x}::{number:x}").parse()?;
            node.pod(&name, &[IpAddr::from([10, 244, third, number]), v6])
        };
        let pods: Result<Vec<Pod>> = (0..PODS).map(|n| pod(format!("pod-{n}"), 1, n)).collect();
        let clients: Result<Vec<Pod>> =
            (0..CLIENTS).map(|n| pod(format!("client-{n}"), 9, n)).collect();
        let (pods, clients) = (pods?, clients?);
        for client in &clients {
            for (family, network) in UNTRANSLATED {
                ip(client, &format!("{family} route add unreachable {network}"))?;
            }
        }
        let socket_holder = pod("socket-holder".to_owned(), 7, 0)?;
        let servers = Servers::start(SERVICES)?;
        for (id, pod) in pods.iter().enumerate() {
            servers.open(id, pod)?;
        }
        Ok(Self { api: Api::default(), pods, clients, socket_holder, servers })
    }

    /// Creates all objects. Most services have endpoints.
    pub(super) fn fill(&self, oracle: &Oracle, random: &mut fastrand::Rng) {
        self.api.apply(&objects::node());
        self.apply_mark(1);
        self.api.apply(&Service::new(MARK).ip(MARK_ADDRESS).tcp(80).objects()[0]);
        for service in 0..SERVICES {
            let count = if has_endpoints(service) { random.usize(1..6) } else { 0 };
            let endpoints = random.choose_multiple(0..PODS, count).into_iter().collect();
            oracle.set(service, Arc::new(endpoints));
            for object in self.describe(service, &oracle.endpoints(service)).objects() {
                self.api.apply(&object);
            }
        }
    }

    /// Gives the service [`MARK`] an endpoint with this number, at an unused address.
    pub(super) fn apply_mark(&self, number: u16) {
        let endpoint = Endpoint::at(&[mark_address(number)]);
        let service = Service::new(MARK).ip(MARK_ADDRESS).tcp(80).endpoints([endpoint]);
        for slice in &service.objects()[1..] {
            self.api.apply(slice);
        }
    }

    pub(super) fn targets() -> Vec<Target> {
        let targets = (0..SERVICES).flat_map(|service| {
            addresses(service).into_iter().map(move |address| {
                let ip: IpAddr = address.parse().expect("made of numbers below");
                let is_sticky = is_sticky(service);
                Target { service, tcp: (ip, 80).into(), udp: (ip, 53).into(), is_sticky }
            })
        });
        targets.collect()
    }

    fn describe(&self, service: ServiceId, endpoints: &Endpoints) -> Service {
        let mut described = Service::new(&service_name(service))
            .tcp(80)
            .to(port_of(service))
            .udp(53)
            .to(port_of(service))
            .endpoints(endpoints.iter().map(|&pod| &self.pods[pod]));
        for address in addresses(service) {
            described = described.ip(&address);
        }
        if is_sticky(service) { described.sticky(3600) } else { described }
    }

    /// A service with random endpoints.
    pub(super) fn with_random_endpoints(
        &self,
        service: ServiceId,
        random: &mut fastrand::Rng,
    ) -> Service {
        let endpoints = random.choose_multiple(0..PODS, 3).into_iter().collect();
        self.describe(service, &Arc::new(endpoints))
    }

    pub(super) fn apply(&self, oracle: &Oracle, service: ServiceId, endpoints: BTreeSet<PodId>) {
        let endpoints = Arc::new(endpoints);
        oracle.set(service, Arc::clone(&endpoints));
        for slice in &self.describe(service, &endpoints).objects()[1..] {
            self.api.apply(slice);
        }
    }
}

pub(super) fn service_name(service: ServiceId) -> String {
    format!("service-{service}")
}

/// The address of the mark's endpoint with this number.
pub(super) fn mark_address(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    [10, 250, high, low].into()
}

pub(super) const fn has_endpoints(service: ServiceId) -> bool {
    service < SERVICES - WITHOUT_ENDPOINTS
}

const fn is_sticky(service: ServiceId) -> bool {
    service % 7 == 3
}

/// A third of the services have an IPv6 address, half of these only that.
fn addresses(service: ServiceId) -> Vec<String> {
    let (v4, v6) = (format!("10.96.1.{}", service + 1), format!("fd00:10:96::{:x}", service + 1));
    match service % 6 {
        0 => vec![v6],
        1 => vec![v4, v6],
        _ => vec![v4],
    }
}
