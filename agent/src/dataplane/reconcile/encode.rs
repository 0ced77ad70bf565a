//! Encodes a plan for the maps: node addresses expanded, backends by service port, slots by list of
//! backends.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use sockline_ebpf::{
    address::Address,
    backend::{EXTERNAL_SCOPE, INTERNAL_SCOPE},
    counters, frontend,
    frontend::FrontendKey,
};

use crate::{
    dataplane::maps::service_names::ServiceKey,
    model::{
        object::{Family, Protocol},
        plan::{self, Action, Backend, Balance, Frontend, FrontendAddress, FrontendKind, Reason},
    },
};

/// The frontends of a plan that belong to one port of one service.
pub struct DesiredServicePort<'a> {
    pub key: ServiceKey,
    pub frontends: Vec<&'a Arc<Frontend>>,
}

/// Groups frontends in the plan's order by service port.
pub fn service_ports(frontends: &[Arc<Frontend>]) -> Vec<DesiredServicePort<'_>> {
    debug_assert!(frontends.is_sorted_by(|a, b| plan::order(a, b).is_lt()));
    let mut service_ports: Vec<DesiredServicePort<'_>> = Vec::new();
    for service in frontends.chunk_by(|a, b| a.service == b.service) {
        let first = service_ports.len();
        for frontend in service {
            // In the plan's order the frontends of one port name are together; a service may have
            // thousands of ports.
            let own = service_ports[first..]
                .iter_mut()
                .rev()
                .take_while(|service_port| service_port.key.port_name == frontend.port_name)
                .find(|service_port| service_port.key.protocol == frontend.protocol);
            match own {
                Some(service_port) => service_port.frontends.push(frontend),
                None => service_ports.push(DesiredServicePort {
                    key: ServiceKey {
                        service: frontend.service.clone(),
                        port_name: Arc::clone(&frontend.port_name),
                        protocol: frontend.protocol,
                    },
                    frontends: vec![frontend],
                }),
            }
        }
    }
    service_ports
}

/// The addresses that a frontend is at.
pub fn addresses(frontend: &Frontend, node_addresses: &[IpAddr]) -> Vec<Address> {
    match frontend.address {
        FrontendAddress::Ip(ip) => vec![ip.into()],
        FrontendAddress::OtherNodes => vec![loopback(frontend.family).to_unspecified()],
        FrontendAddress::Node => {
            let of_family = node_addresses.iter().filter(|&&ip| Family::of(ip) == frontend.family);
            of_family.map(|&ip| ip.into()).collect()
        }
    }
}

/// The node's addresses that NodePorts in the kernel are at, without loopback.
pub fn node_addresses<'a>(
    entries: impl IntoIterator<Item = &'a frontend::Frontend>,
) -> BTreeSet<IpAddr> {
    entries
        .into_iter()
        .filter(|entry| kind_of(entry.kind) == FrontendKind::NodePort && entry.node == 0)
        .filter(|entry| entry.key.address.as_loopback().is_none())
        .map(|entry| entry.key.address.into())
        .collect()
}

/// The loopback address of a family that stands for all of them.
pub const fn loopback(family: Family) -> Address {
    match family {
        Family::IPv4 => Address::IPV4_LOOPBACK,
        Family::IPv6 => Address::IPV6_LOOPBACK,
    }
}

pub fn key(frontend: &Frontend, address: Address) -> FrontendKey {
    FrontendKey {
        address,
        port: frontend.port.to_be(),
        protocol: protocol_number(frontend.protocol),
        padding: 0,
    }
}

/// Which frontends of a service share their backends: those for clients inside the cluster follow
/// one traffic policy, those for others the other.
pub const fn scope(kind: FrontendKind) -> u8 {
    match kind {
        FrontendKind::ClusterIP => INTERNAL_SCOPE,
        FrontendKind::ExternalIP | FrontendKind::LoadBalancer | FrontendKind::NodePort => {
            EXTERNAL_SCOPE
        }
    }
}

/// The lists of backends of a service port, each once, with the scopes it is in.
pub fn lists<'a>(service_port: &DesiredServicePort<'a>) -> Vec<(&'a Arc<[Backend]>, u8)> {
    let mut lists: Vec<(&Arc<[Backend]>, u8)> = Vec::new();
    for frontend in &service_port.frontends {
        let scope = scope(frontend.kind);
        // Frontends of one traffic policy share their list.
        match lists.iter_mut().find(|(list, _)| Arc::ptr_eq(list, &frontend.backends)) {
            Some((_, scopes)) => *scopes |= scope,
            None => lists.push((&frontend.backends, scope)),
        }
    }
    lists
}

pub const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => frontend::TCP,
        Protocol::Udp => frontend::UDP,
        Protocol::Sctp => frontend::SCTP,
    }
}

pub const fn action_number(action: Action) -> u8 {
    match action {
        Action::Forward => frontend::FORWARD,
        Action::Refuse => frontend::REFUSE,
        Action::Pass => frontend::BYPASS,
    }
}

pub const fn action_of(number: u8) -> Action {
    match number {
        frontend::FORWARD => Action::Forward,
        frontend::BYPASS => Action::Pass,
        _ => Action::Refuse,
    }
}

pub const fn reason_number(reason: Option<Reason>) -> u8 {
    match reason {
        None | Some(Reason::NoEndpoints) => counters::NO_ENDPOINTS,
        Some(Reason::NoLocalEndpoints) => counters::NO_LOCAL_ENDPOINTS,
        Some(Reason::SourceRanges) => counters::SOURCE_RANGES,
        Some(Reason::Protocol) => counters::PROTOCOL,
        Some(Reason::RedirectDisabled) => counters::REDIRECT_DISABLED,
        Some(Reason::TooLarge) => counters::TOO_LARGE,
    }
}

pub const fn reason_of(action: Action, number: u8) -> Option<Reason> {
    match action {
        Action::Forward => None,
        Action::Refuse | Action::Pass => Some(match number {
            counters::NO_LOCAL_ENDPOINTS => Reason::NoLocalEndpoints,
            counters::SOURCE_RANGES => Reason::SourceRanges,
            counters::PROTOCOL => Reason::Protocol,
            counters::REDIRECT_DISABLED => Reason::RedirectDisabled,
            counters::TOO_LARGE => Reason::TooLarge,
            _ => Reason::NoEndpoints,
        }),
    }
}

pub const fn kind_number(kind: FrontendKind) -> u8 {
    match kind {
        FrontendKind::ClusterIP => 0,
        FrontendKind::ExternalIP => 1,
        FrontendKind::LoadBalancer => 2,
        FrontendKind::NodePort => 3,
    }
}

pub const fn kind_of(number: u8) -> FrontendKind {
    match number {
        1 => FrontendKind::ExternalIP,
        2 => FrontendKind::LoadBalancer,
        3 => FrontendKind::NodePort,
        _ => FrontendKind::ClusterIP,
    }
}

pub const fn balance_number(balance: Balance) -> u8 {
    match balance {
        Balance::Random => 0,
    }
}

pub const fn balance_of(_number: u8) -> Balance {
    Balance::Random
}
