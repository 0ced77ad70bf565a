//! Explains the plan of one service: its addresses, and for each endpoint why it is chosen or not.
//!
//! The reasons are [`Selection`]'s, which the planner chooses with, so that they cannot differ from the choice.

mod endpoints;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use self::endpoints::Endpoints;
pub use self::endpoints::{Choice, EndpointExplanation, LISTED};
use super::{
    conflict::Conflicts,
    endpoints::{SlicePorts, ThisNode},
    frontends::{service_frontends, traffic_policy},
    object::{EndpointSlice, Family, ObjectName, Protocol, Service, ServicePort, TrafficPolicy},
    other_nodes::OtherNodes,
    plan::{Action, Backend, Frontend, FrontendAddress, FrontendKind, Reason},
};

/// How a service is served on a node, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `None` if there is no such Service that Sockline serves.
    pub service: Option<ServiceExplanation>,
    /// The zone of this node.
    pub zone: Option<Arc<str>>,
    /// What is wrong with its objects.
    pub input_errors: Vec<String>,
    /// It changed, and the change is not in the maps yet.
    pub is_waiting: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExplanation {
    pub internal_traffic_policy: TrafficPolicy,
    pub external_traffic_policy: TrafficPolicy,
    /// The wanted port in each address family, or all ports.
    pub ports: Vec<PortExplanation>,
    /// If no port is the wanted one, all that there are, see [`port_label`].
    pub other_ports: Vec<String>,
}

/// A service port in one address family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortExplanation {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub family: Family,
    pub port: u16,
    pub node_port: Option<u16>,
    pub frontends: Vec<FrontendExplanation>,
    /// One for each traffic policy that a frontend has.
    pub choices: Vec<Choice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendExplanation {
    pub kind: FrontendKind,
    /// As in a plan.
    pub address: String,
    pub port: u16,
    /// Which choice it has; `None` if its endpoints are those of another node.
    pub traffic_policy: Option<TrafficPolicy>,
    pub action: Action,
    pub reason: Option<Reason>,
    pub affinity_seconds: Option<u32>,
    /// How many backends it has.
    pub backends: usize,
    /// See [`digest`].
    pub backends_digest: u64,
    /// The service port that has the address in its place.
    pub lost_to: Option<(ObjectName, Arc<str>)>,
}

/// Explains the plan of one service, or of one of its ports if `wanted` is the name or the number of one. `slices` are
/// the service's own.
pub fn service<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: ThisNode<'_>,
    others: Option<&OtherNodes>,
    conflicts: &Conflicts,
    wanted: Option<&str>,
) -> ServiceExplanation {
    let slices: Vec<&EndpointSlice> = slices.into_iter().collect();
    let mut frontends: HashMap<_, Vec<Frontend>> = HashMap::new();
    // The limit of backends is the service's, so all ports are planned.
    for frontend in service_frontends(service, slices.iter().copied(), node, others) {
        let key = (Arc::clone(&frontend.port_name), frontend.protocol, frontend.family);
        frontends.entry(key).or_default().push(frontend);
    }
    let slice_ports = SlicePorts::of(slices.iter().copied());
    let mut endpoints = Endpoints::new(service, &slices, &slice_ports, node);
    let is_wanted = |port: &&ServicePort| {
        wanted.is_none_or(|wanted| is_port(wanted, &port.name, numbers(port)))
    };
    let families = service.cluster_ips.iter().map(|ip| Family::of(*ip));
    let ports: Vec<PortExplanation> = families
        .flat_map(|family| service.ports.iter().filter(is_wanted).map(move |port| (port, family)))
        .map(|(port, family)| {
            let key = (Arc::clone(&port.name), port.protocol, family);
            let frontends = frontends.remove(&key).unwrap_or_default();
            port_of(service, conflicts, (port, family), &frontends, &mut endpoints)
        })
        .collect();
    let label = |port: &ServicePort| port_label(&port.name, numbers(port), port.protocol);
    ServiceExplanation {
        internal_traffic_policy: service.internal_traffic_policy,
        external_traffic_policy: service.external_traffic_policy,
        other_ports: if ports.is_empty() {
            service.ports.iter().map(label).collect()
        } else {
            Vec::new()
        },
        ports,
    }
}

fn numbers(port: &ServicePort) -> impl Iterator<Item = u16> {
    [port.port].into_iter().chain(port.node_port)
}

/// Whether a text is the name of a service port, or one of its numbers.
pub fn is_port(wanted: &str, name: &str, numbers: impl IntoIterator<Item = u16>) -> bool {
    name == wanted || numbers.into_iter().any(|number| number.to_string() == wanted)
}

/// `web (80/TCP)`, or `web (80, 30080/TCP)` with a node port.
pub fn port_label(
    name: &str,
    numbers: impl IntoIterator<Item = u16>,
    protocol: Protocol,
) -> String {
    let name = if name.is_empty() { "the unnamed port" } else { name };
    let numbers: BTreeSet<u16> = numbers.into_iter().collect();
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("{name} ({}/{protocol})", numbers.join(", "))
}

/// Tells lists of backends apart by their addresses and ports (64-bit FNV-1a). Both builds must have the same one, so
/// it is no hash of the standard library.
pub fn digest(backends: &[Backend]) -> u64 {
    let of_address = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let bytes = backends.iter().flat_map(|backend| {
        of_address(backend.address).into_iter().chain(backend.port.to_be_bytes())
    });
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn port_of(
    service: &Service,
    conflicts: &Conflicts,
    (port, family): (&ServicePort, Family),
    frontends: &[Frontend],
    endpoints: &mut Endpoints<'_>,
) -> PortExplanation {
    // Frontends of a port share lists.
    let mut digests: HashMap<*const Backend, u64> = HashMap::new();
    let explained: Vec<FrontendExplanation> = frontends
        .iter()
        .map(|frontend| FrontendExplanation {
            kind: frontend.kind,
            address: frontend.address.to_string(),
            port: frontend.port,
            traffic_policy: (frontend.of_node == 0).then(|| traffic_policy(service, frontend.kind)),
            action: frontend.action,
            reason: frontend.reason,
            affinity_seconds: frontend.affinity_seconds,
            backends: frontend.backends.len(),
            backends_digest: *digests
                .entry(frontend.backends.as_ptr())
                .or_insert_with(|| digest(&frontend.backends)),
            lost_to: conflicts
                .winner_over(frontend)
                .map(|(service, port)| (service.clone(), Arc::clone(port))),
        })
        .collect();
    // At the addresses of other nodes another limit may be exceeded, that of addresses.
    let is_too_large = frontends.iter().any(|frontend| {
        frontend.reason == Some(Reason::TooLarge) && frontend.address != FrontendAddress::OtherNodes
    });
    let policies: BTreeSet<TrafficPolicy> =
        explained.iter().filter_map(|frontend| frontend.traffic_policy).collect();
    let choices = policies.into_iter().map(|policy| {
        if is_too_large {
            endpoints.counted(port, family, policy)
        } else {
            endpoints.explained(port, family, policy)
        }
    });
    PortExplanation {
        name: Arc::clone(&port.name),
        protocol: port.protocol,
        family,
        port: port.port,
        node_port: port.node_port,
        choices: choices.collect(),
        frontends: explained,
    }
}

#[cfg(test)]
mod tests;
