//! Encodes a plan for the maps: node addresses expanded, backends by service port, slots by list of
//! backends.
//!
//! The enums of the plan and those of the maps are two: those of the plan have the words of Kubernetes and of the JSON
//! that users read, and the model does not depend on a layout. The matches here do not compile until both sides know a
//! new value.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use sockline_ebpf::{
    address::Address, backend::Scopes, frontend, frontend::FrontendKey, traffic_class,
};

use crate::{
    dataplane::maps::service_names::ServiceKey,
    model::{
        object::{Family, Protocol},
        plan::{
            self, Action, Backend, Balance, Frontend, FrontendAddress, FrontendKind, Reason,
            TrafficClass,
        },
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
        .filter(|entry| kind_of(entry.kind) == Some(FrontendKind::NodePort) && entry.node == 0)
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
        protocol: protocol(frontend.protocol).byte(),
        padding: 0,
    }
}

/// Which frontends of a service share their backends: those for clients inside the cluster follow
/// one traffic policy, those for others the other.
pub const fn scope(kind: FrontendKind) -> Scopes {
    match kind {
        FrontendKind::ClusterIP => Scopes::INTERNAL,
        FrontendKind::ExternalIP | FrontendKind::LoadBalancer | FrontendKind::NodePort => {
            Scopes::EXTERNAL
        }
    }
}

/// The lists of backends of a service port, each once, with the scopes it is in.
pub fn lists<'a>(service_port: &DesiredServicePort<'a>) -> Vec<(&'a Arc<[Backend]>, Scopes)> {
    let mut lists: Vec<(&Arc<[Backend]>, Scopes)> = Vec::new();
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

pub const fn protocol(protocol: Protocol) -> frontend::Protocol {
    match protocol {
        Protocol::Tcp => frontend::Protocol::Tcp,
        Protocol::Udp => frontend::Protocol::Udp,
        Protocol::Sctp => frontend::Protocol::Sctp,
    }
}

/// `None` for a byte that no agent writes, as the other functions that read an entry.
pub fn protocol_of(byte: u8) -> Option<Protocol> {
    frontend::Protocol::from_byte(byte).map(|protocol| match protocol {
        frontend::Protocol::Udp => Protocol::Udp,
        frontend::Protocol::Sctp => Protocol::Sctp,
        frontend::Protocol::Tcp => Protocol::Tcp,
    })
}

pub const fn action(action: Action) -> frontend::Action {
    match action {
        Action::Forward => frontend::Action::Forward,
        Action::Refuse => frontend::Action::Refuse,
        Action::Bypass => frontend::Action::Bypass,
    }
}

pub fn action_of(byte: u8) -> Option<Action> {
    frontend::Action::from_byte(byte).map(|action| match action {
        frontend::Action::Forward => Action::Forward,
        frontend::Action::Bypass => Action::Bypass,
        frontend::Action::Refuse => Action::Refuse,
    })
}

pub const fn reason(reason: Reason) -> frontend::Reason {
    match reason {
        Reason::NoEndpoints => frontend::Reason::NoEndpoints,
        Reason::NoLocalEndpoints => frontend::Reason::NoLocalEndpoints,
        Reason::SourceRanges => frontend::Reason::SourceRanges,
        Reason::Protocol => frontend::Reason::Protocol,
        Reason::RedirectDisabled => frontend::Reason::RedirectDisabled,
        Reason::TooLarge => frontend::Reason::TooLarge,
    }
}

/// The reason of an action that is not to forward.
pub fn reason_of(byte: u8) -> Option<Reason> {
    frontend::Reason::from_byte(byte).map(|reason| match reason {
        frontend::Reason::NoEndpoints => Reason::NoEndpoints,
        frontend::Reason::NoLocalEndpoints => Reason::NoLocalEndpoints,
        frontend::Reason::SourceRanges => Reason::SourceRanges,
        frontend::Reason::Protocol => Reason::Protocol,
        frontend::Reason::RedirectDisabled => Reason::RedirectDisabled,
        frontend::Reason::TooLarge => Reason::TooLarge,
    })
}

pub const fn kind(kind: FrontendKind) -> frontend::FrontendKind {
    match kind {
        FrontendKind::ClusterIP => frontend::FrontendKind::ClusterIp,
        FrontendKind::ExternalIP => frontend::FrontendKind::ExternalIp,
        FrontendKind::LoadBalancer => frontend::FrontendKind::LoadBalancer,
        FrontendKind::NodePort => frontend::FrontendKind::NodePort,
    }
}

pub fn kind_of(byte: u8) -> Option<FrontendKind> {
    frontend::FrontendKind::from_byte(byte).map(|kind| match kind {
        frontend::FrontendKind::ClusterIp => FrontendKind::ClusterIP,
        frontend::FrontendKind::ExternalIp => FrontendKind::ExternalIP,
        frontend::FrontendKind::LoadBalancer => FrontendKind::LoadBalancer,
        frontend::FrontendKind::NodePort => FrontendKind::NodePort,
    })
}

pub const fn traffic_class(class: TrafficClass) -> traffic_class::TrafficClass {
    match class {
        TrafficClass::SameNode => traffic_class::TrafficClass::SameNode,
        TrafficClass::SameZone => traffic_class::TrafficClass::SameZone,
        TrafficClass::OtherZone => traffic_class::TrafficClass::OtherZone,
        TrafficClass::Unknown => traffic_class::TrafficClass::Unknown,
    }
}

/// A byte that no agent writes is not known either.
pub fn traffic_class_of(byte: u8) -> TrafficClass {
    match traffic_class::TrafficClass::from_byte(byte) {
        Some(traffic_class::TrafficClass::SameNode) => TrafficClass::SameNode,
        Some(traffic_class::TrafficClass::SameZone) => TrafficClass::SameZone,
        Some(traffic_class::TrafficClass::OtherZone) => TrafficClass::OtherZone,
        Some(traffic_class::TrafficClass::Unknown) | None => TrafficClass::Unknown,
    }
}

pub const fn balance(balance: Balance) -> frontend::Balance {
    match balance {
        Balance::Random => frontend::Balance::Random,
    }
}

pub fn balance_of(byte: u8) -> Option<Balance> {
    frontend::Balance::from_byte(byte).map(|balance| match balance {
        frontend::Balance::Random => Balance::Random,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_what_was_written() {
        for one in [Action::Forward, Action::Refuse, Action::Bypass] {
            assert_eq!(action_of(action(one).byte()), Some(one));
        }
        for one in [
            Reason::NoEndpoints,
            Reason::NoLocalEndpoints,
            Reason::SourceRanges,
            Reason::Protocol,
            Reason::RedirectDisabled,
            Reason::TooLarge,
        ] {
            assert_eq!(reason_of(reason(one).byte()), Some(one));
        }
        for one in [
            FrontendKind::ClusterIP,
            FrontendKind::ExternalIP,
            FrontendKind::LoadBalancer,
            FrontendKind::NodePort,
        ] {
            assert_eq!(kind_of(kind(one).byte()), Some(one));
        }
        for one in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            assert_eq!(protocol_of(protocol(one).byte()), Some(one));
        }
        for one in TrafficClass::ALL {
            assert_eq!(traffic_class_of(traffic_class(one).byte()), one);
        }
        assert_eq!(balance_of(balance(Balance::Random).byte()), Some(Balance::Random));
    }

    #[test]
    fn a_byte_that_no_agent_writes_is_not_taken_for_another_value() {
        assert_eq!(action_of(0xff), None);
        assert_eq!(reason_of(0xff), None);
        assert_eq!(kind_of(0xff), None);
        assert_eq!(protocol_of(0xff), None);
        assert_eq!(balance_of(0xff), None);
        assert_eq!(traffic_class_of(0xff), TrafficClass::Unknown);
    }
}
