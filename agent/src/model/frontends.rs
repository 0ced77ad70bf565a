//! The frontends of one service: its addresses on this node, and the action for a connect to each.
//!
//! The rules are kube-proxy 1.36's as a client on the node sees them (`pkg/proxy/serviceport.go`,
//! `pkg/proxy/servicechangetracker.go`, `syncProxyRules` in `pkg/proxy/nftables/proxier.go`), with
//! two intended differences: where kube-proxy drops packets (traffic policy Local without a local endpoint),
//! the call is refused, so that the client gets an error immediately; and load balancer addresses with source
//! ranges are left to kube-proxy.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use super::{
    endpoints::{self, SlicePorts, ThisNode},
    limits,
    object::{
        EndpointSlice, Family, InputError, Kind, ObjectName, Protocol, Redirect, Service,
        ServicePort, Subject, TrafficPolicy,
    },
    other_nodes::{self, OtherNodes},
    plan::{self, Action, Backend, Balance, Frontend, FrontendAddress, FrontendKind, Reason},
};

/// Every frontend of `service` on this node, in the plan's order, each address, port and protocol
/// at most once per service port.
///
/// `slices` are the service's own, in any order. Frontends of other services may claim the same
/// addresses: see [`super::conflict`].
pub fn service_frontends<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: ThisNode<'_>,
    others: Option<&OtherNodes>,
) -> Vec<Frontend> {
    let slices = SlicePorts::of(slices);
    let mut frontends = Vec::new();
    let mut room = limits::BACKENDS;
    // A family without a cluster IP does not exist for the service: kube-proxy then also ignores
    // its external addresses and node ports of that family.
    for &cluster_ip in &service.cluster_ips {
        let family = Family::of(cluster_ip);
        for port in &service.ports {
            let choice = Choice::of(service, port, family, &slices, node, &mut room);
            for (address, kind) in addresses(service, port, cluster_ip) {
                frontends.push(frontend(service, port, family, address, kind, &choice));
            }
            if let (Some(others), Some(_)) = (others, port.node_port) {
                let room = limits::FRONTENDS.saturating_sub(frontends.len());
                frontends.extend(at_other_nodes(service, port, family, &choice, others, room));
            }
        }
    }
    frontends.sort_by(plan::order);
    frontends
}

/// The error if not all ports of a service fit into its limit of backends.
pub fn too_large(service: &ObjectName, frontends: &[Arc<Frontend>]) -> Option<InputError> {
    let left =
        frontends.iter().filter(|frontend| frontend.reason == Some(Reason::TooLarge)).count();
    (left > 0).then(|| InputError {
        object: Subject::of(Kind::Service, service),
        field: "spec.ports".to_owned(),
        message: format!(
            "more than {} backends, counted once for each port; {left} of its {} addresses are left to \
             kube-proxy",
            limits::BACKENDS,
            frontends.len()
        ),
    })
}

/// The addresses of a service port in one family, without duplicates.
fn addresses(
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
) -> Vec<(FrontendAddress, FrontendKind)> {
    let family = Family::of(cluster_ip);
    let external = service.external_ips.iter().map(|ip| (*ip, FrontendKind::ExternalIP));
    let load_balancer =
        service.load_balancer_ips.iter().map(|ip| (*ip, FrontendKind::LoadBalancer));
    let mut ips = vec![(cluster_ip, FrontendKind::ClusterIP)];
    // Source ranges filter by address, so they win over the same address as an external IP.
    if restricted(service, family) {
        ips.extend(load_balancer.chain(external));
    } else {
        ips.extend(external.chain(load_balancer));
    }

    let mut addresses: Vec<(FrontendAddress, FrontendKind)> = Vec::with_capacity(ips.len() + 1);
    if port.node_port.is_some() {
        addresses.push((FrontendAddress::Node, FrontendKind::NodePort));
    }
    for (ip, kind) in ips.into_iter().filter(|(ip, _)| Family::of(*ip) == family) {
        let address = FrontendAddress::Ip(ip);
        if addresses.iter().all(|(taken, _)| *taken != address) {
            addresses.push((address, kind));
        }
    }
    addresses
}

/// The traffic policy of an address, for a client on this node.
///
/// External addresses always use the Cluster endpoints: for clients on the node kube-proxy short-circuits
/// externalTrafficPolicy Local, as if they had left and come back through a load balancer.
pub const fn traffic_policy(service: &Service, kind: FrontendKind) -> TrafficPolicy {
    match kind {
        FrontendKind::ClusterIP => service.internal_traffic_policy,
        FrontendKind::ExternalIP | FrontendKind::LoadBalancer | FrontendKind::NodePort => {
            TrafficPolicy::Cluster
        }
    }
}

fn restricted(service: &Service, family: Family) -> bool {
    service.source_ranges[family as usize]
}

fn frontend(
    service: &Service,
    port: &ServicePort,
    family: Family,
    address: FrontendAddress,
    kind: FrontendKind,
    choice: &Choice,
) -> Frontend {
    let (action, reason, backends) = if service.redirect == Redirect::Disabled {
        (Action::Bypass, Some(Reason::RedirectDisabled), none())
    } else if port.protocol == Protocol::Sctp {
        (Action::Bypass, Some(Reason::Protocol), none())
    } else if kind == FrontendKind::LoadBalancer && restricted(service, family) {
        (Action::Bypass, Some(Reason::SourceRanges), none())
    } else {
        choice.verdict(traffic_policy(service, kind))
    };
    Frontend {
        service: service.name.clone(),
        port_name: Arc::clone(&port.name),
        address,
        family,
        port: match kind {
            FrontendKind::NodePort => port.node_port.unwrap_or(port.port),
            FrontendKind::ClusterIP | FrontendKind::ExternalIP | FrontendKind::LoadBalancer => {
                port.port
            }
        },
        protocol: port.protocol,
        kind,
        action,
        reason,
        affinity_seconds: service.affinity_seconds.filter(|_| action == Action::Forward),
        balance: Balance::Random,
        of_node: 0,
        backends,
    }
}

/// A NodePort at the other nodes' addresses. A connection to one of them is external traffic for that node, so
/// externalTrafficPolicy Local selects the endpoints of the node that has the address.
fn at_other_nodes(
    service: &Service,
    port: &ServicePort,
    family: Family,
    choice: &Choice,
    others: &OtherNodes,
    room: usize,
) -> Vec<Frontend> {
    let address = FrontendAddress::OtherNodes;
    let mut everywhere = frontend(service, port, family, address, FrontendKind::NodePort, choice);
    if service.external_traffic_policy == TrafficPolicy::Cluster
        || everywhere.action != Action::Forward
    {
        return vec![everywhere];
    }
    let mut taken = HashSet::new();
    let mut frontends = Vec::new();
    for (node, backends) in &choice.by_node {
        let of_family = others.of(node).iter().filter(|ip| Family::of(**ip) == family);
        for &ip in of_family {
            if taken.insert(ip) {
                frontends.push(Frontend {
                    address: FrontendAddress::Ip(ip),
                    of_node: other_nodes::number(node),
                    backends: Arc::clone(backends),
                    ..everywhere.clone()
                });
            }
        }
    }
    (everywhere.affinity_seconds, everywhere.backends) = (None, none());
    if frontends.len() < room {
        (everywhere.action, everywhere.reason) = (Action::Refuse, Some(Reason::NoLocalEndpoints));
    } else {
        frontends.clear();
        (everywhere.action, everywhere.reason) = (Action::Bypass, Some(Reason::TooLarge));
    }
    frontends.push(everywhere);
    frontends
}

fn none() -> Arc<[Backend]> {
    Arc::default()
}

/// The endpoints of a service port by traffic policy. Frontends share the lists: in a large cluster
/// most of the plan's memory is in them.
#[derive(Default)]
struct Choice {
    /// There are more endpoints than the service's limit.
    too_large: bool,
    cluster: Arc<[Backend]>,
    /// `Some` if the cluster IP uses only the endpoints of this node.
    local: Option<Arc<[Backend]>>,
    /// With externalTrafficPolicy Local, the endpoints of each node that has some, including this node.
    by_node: Vec<(Arc<str>, Arc<[Backend]>)>,
}

impl Choice {
    /// Subtracts the backends from `room`, the rest of the service's limit.
    fn of(
        service: &Service,
        port: &ServicePort,
        family: Family,
        slices: &SlicePorts<'_>,
        node: ThisNode<'_>,
        room: &mut usize,
    ) -> Self {
        let slices = slices.with(family, &port.name, port.protocol);
        // Before the backends are processed, which is the costly part.
        let most = slices.iter().map(|(slice, _)| slice.endpoints.len()).sum();
        let Some(left) = room.checked_sub(most) else {
            return Self { too_large: true, ..Self::default() };
        };
        *room = left;
        let candidates = endpoints::candidates(&slices, node);
        let by_node = if service.external_traffic_policy == TrafficPolicy::Local
            && port.node_port.is_some()
        {
            endpoints::by_node(&candidates, node)
        } else {
            Vec::new()
        };
        Self {
            by_node,
            too_large: false,
            cluster: endpoints::chosen(TrafficPolicy::Cluster, &candidates, node).into(),
            local: (service.internal_traffic_policy == TrafficPolicy::Local)
                .then(|| endpoints::chosen(TrafficPolicy::Local, &candidates, node).into()),
        }
    }

    fn verdict(&self, policy: TrafficPolicy) -> (Action, Option<Reason>, Arc<[Backend]>) {
        if self.too_large {
            return (Action::Bypass, Some(Reason::TooLarge), none());
        }
        let backends = match (policy, &self.local) {
            (TrafficPolicy::Local, Some(local)) => local,
            _ => &self.cluster,
        };
        if !backends.is_empty() {
            (Action::Forward, None, Arc::clone(backends))
        } else if self.cluster.is_empty() {
            (Action::Refuse, Some(Reason::NoEndpoints), none())
        } else {
            (Action::Refuse, Some(Reason::NoLocalEndpoints), none())
        }
    }
}

#[cfg(test)]
mod tests;
