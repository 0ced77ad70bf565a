//! The probe service: the private service that `sockline check` connects to while it runs.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    object::{Family, ObjectName, Protocol},
    plan::{
        self, Action, Backend, Balance, Frontend, FrontendAddress, FrontendKind, Reason,
        ServicePlan, TrafficClass,
    },
};

const NAMESPACE: &str = "sockline";
/// With a slash, which no Kubernetes object has in its name.
const PREFIX: &str = "check/";

/// TEST-NET-2 (RFC 5737) and a part of the documentation prefix (RFC 3849): no host and no cluster's services
/// have these addresses.
const IPV4_NET: [u8; 3] = [198, 51, 100];
const IPV6_NET: [u16; 4] = [0x2001, 0xdb8, 0x736f, 0x636b];

/// The ports of the service's listeners on 127.0.0.1 and ::1; `None`: there is no listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listeners {
    pub tcp4: Option<u16>,
    pub udp4: Option<u16>,
    pub tcp6: Option<u16>,
    pub udp6: Option<u16>,
}

/// The addresses and ports of a probe service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeService {
    pub number: u64,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    /// TCP and UDP, forwarded to the listeners.
    pub port: u16,
    /// TCP, refused like a service without endpoints.
    pub refused_port: u16,
}

impl ProbeService {
    /// A service whose addresses follow from `seed`.
    #[must_use]
    pub fn new(number: u64, seed: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = seed.to_be_bytes();
        let [w, x, y, z] = IPV6_NET;
        let low = |high, low| u16::from_be_bytes([high, low]);
        // Above the well-known ports, and at most 65,534, because the refused port is the next one.
        let port = 1024 + low(a, b) % 64_000;
        Self {
            number,
            ipv4: Ipv4Addr::new(IPV4_NET[0], IPV4_NET[1], IPV4_NET[2], 1 + c % 254),
            ipv6: Ipv6Addr::new(w, x, y, z, low(d, c), low(e, f), low(g, h), 1),
            port,
            refused_port: port + 1,
        }
    }

    #[must_use]
    pub fn name(&self) -> ObjectName {
        ObjectName::new(NAMESPACE, format!("{PREFIX}{}", self.number))
    }

    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::IPv4 => self.ipv4.into(),
            Family::IPv6 => self.ipv6.into(),
        }
    }

    /// What the programs are to do at its addresses.
    #[must_use]
    pub fn plan(&self, listeners: Listeners) -> ServicePlan {
        let mut frontends = Vec::new();
        for family in Family::ALL {
            let (tcp, udp) = match family {
                Family::IPv4 => (listeners.tcp4, listeners.udp4),
                Family::IPv6 => (listeners.tcp6, listeners.udp6),
            };
            for (protocol, listener) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp)] {
                if let Some(listener) = listener {
                    frontends.push(self.frontend(family, protocol, Some(listener)));
                }
            }
            if tcp.is_some() {
                frontends.push(self.frontend(family, Protocol::Tcp, None));
            }
        }
        frontends.sort_by(plan::order);
        ServicePlan {
            service: self.name(),
            frontends: frontends.into_iter().map(Arc::new).collect(),
            causes: Vec::new(),
        }
    }

    /// The frontend at the forwarded port if there is a listener, else at the refused port.
    fn frontend(&self, family: Family, protocol: Protocol, listener: Option<u16>) -> Frontend {
        let loopback = match family {
            Family::IPv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Family::IPv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let traffic_class = TrafficClass::SameNode;
        let backend = |port| Backend { address: loopback, port, weight: 1, traffic_class };
        let is_served = listener.is_some();
        Frontend {
            service: self.name(),
            port_name: if is_served { "served" } else { "refused" }.into(),
            address: FrontendAddress::Ip(self.address(family)),
            family,
            port: if is_served { self.port } else { self.refused_port },
            protocol,
            kind: FrontendKind::ClusterIP,
            action: if is_served { Action::Forward } else { Action::Refuse },
            reason: (!is_served).then_some(Reason::NoEndpoints),
            affinity_seconds: None,
            balance: Balance::Random,
            of_node: 0,
            backends: listener.map(backend).into_iter().collect(),
        }
    }
}

/// Whether a service is a probe service, which only `sockline check` uses.
#[must_use]
pub fn is_probe(service: &ObjectName) -> bool {
    *service.namespace == *NAMESPACE && service.name.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_ports_are_valid_and_different_whatever_the_seed() {
        for seed in [0, 1, u64::MAX, 0xf9ff << 48, 0xfa00 << 48] {
            let service = ProbeService::new(1, seed);
            assert!(service.port >= 1024, "{service:?}");
            assert_eq!(service.refused_port, service.port + 1, "{service:?}");
        }
    }

    #[test]
    fn a_family_without_listeners_has_no_frontends() {
        let service = ProbeService::new(1, 7);
        let listeners = Listeners { tcp4: Some(1), udp4: Some(2), ..Listeners::default() };
        let plan = service.plan(listeners);
        let families: Vec<Family> = plan.frontends.iter().map(|frontend| frontend.family).collect();
        assert_eq!(families, [Family::IPv4; 3]);
    }

    #[test]
    fn only_probe_services_are_recognised() {
        assert!(is_probe(&ProbeService::new(1, 7).name()));
        assert!(!is_probe(&ObjectName::new("sockline", "check")));
        assert!(!is_probe(&ObjectName::new("shop", "check/1")));
    }
}
