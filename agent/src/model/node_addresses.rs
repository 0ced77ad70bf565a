//! The node's own addresses: those that NodePorts are at.
//!
//! The rule is kube-proxy 1.36's (`pkg/proxy/util/nodeport_addresses.go`, and `cmd/kube-proxy/app/server.go`
//! for `primary`), without addresses that are there for services only: kube-proxy in IPVS mode has all of
//! them on a device of the node.

use std::{collections::BTreeSet, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::object::{Family, Node};

/// Devices whose addresses are those of services: kube-proxy's in IPVS mode (`pkg/proxy/ipvs`), and
/// NodeLocal DNS's (`-interfacename`).
const SERVICE_DEVICES: [&str; 2] = ["kube-ipvs0", "nodelocaldns"];

/// An address of one of this host's network devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub address: IpAddr,
    pub device: Device,
}

/// What an address of a device says about the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Ordinary,
    /// It has no traffic of its own (Linux' `dummy`): what is on it is mostly there for services.
    Dummy,
    /// One that only has addresses of services.
    OfServices,
}

impl Device {
    /// By the device's name, and whether its kind is `dummy`.
    #[must_use]
    pub fn of(name: &str, kind: Option<&str>) -> Self {
        if SERVICE_DEVICES.contains(&name) {
            Self::OfServices
        } else if kind == Some("dummy") {
            Self::Dummy
        } else {
            Self::Ordinary
        }
    }
}

/// What services have an address for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceUse {
    ClusterIP,
    LoadBalancer,
}

/// One element of `--nodeport-addresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressRange {
    All,
    /// The addresses that the Node object has first, one for each family.
    Primary,
    Network(IpNet),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither `all` nor `primary` nor a range of addresses such as 192.0.2.0/24")]
pub struct RangeError(String);

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        match text {
            // A variable of the environment that is set to nothing.
            "" | "all" => Ok(Self::All),
            "primary" => Ok(Self::Primary),
            network => {
                network.parse().map(Self::Network).map_err(|_| RangeError(network.to_owned()))
            }
        }
    }
}

/// Which of the node's addresses NodePorts are at. As with kube-proxy, a family that no range is of
/// has all of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodePortAddresses(pub Vec<AddressRange>);

/// At whose addresses NodePorts are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodePortScope {
    /// This node's. Another node's are left to it.
    #[default]
    ThisNode,
    /// For clusters without kube-proxy, where nobody answers on the other nodes.
    AllNodes,
}

/// How an address was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    No,
    /// With all others.
    ByDefault,
    /// A range names it.
    ByRange,
}

impl NodePortAddresses {
    fn choose(&self, address: IpAddr, primary: &[IpAddr]) -> Choice {
        let family = Family::of(address);
        let mut choice = Choice::ByDefault;
        for range in &self.0 {
            match range {
                AddressRange::All => return Choice::ByDefault,
                AddressRange::Network(network) if network.prefix_len() == 0 => {
                    if Family::of(network.addr()) == family {
                        return Choice::ByDefault;
                    }
                }
                AddressRange::Primary if primary.contains(&address) => return Choice::ByRange,
                AddressRange::Primary => choice = Choice::No,
                AddressRange::Network(network) if network.contains(&address) => {
                    return Choice::ByRange;
                }
                AddressRange::Network(network) => {
                    if Family::of(network.addr()) == family {
                        choice = Choice::No;
                    }
                }
            }
        }
        choice
    }
}

/// The node's own addresses, sorted: those of its interfaces and of its Node object that `ranges`
/// choose, without loopback and link-local ones.
///
/// What a service has is the service's. Yet a service may have an address of the node: external IPs
/// (keepalived) that are on a device with traffic, and load balancer addresses (K3s ServiceLB) that
/// the Node object has. There, NodePorts of all services go on. A load balancer address that only a
/// device has was put there for its service (kube-vip).
pub fn node_addresses(
    ranges: &NodePortAddresses,
    interfaces: &[InterfaceAddress],
    node: Option<&Node>,
    used: impl Fn(IpAddr) -> Option<ServiceUse>,
) -> Vec<IpAddr> {
    let of_node = node.map_or(&[][..], |node| &node.addresses);
    let primary = primary(of_node);
    let mut addresses = BTreeSet::new();
    for &InterfaceAddress { address, device } in interfaces {
        let is_chosen = match (device, ranges.choose(address, &primary)) {
            (_, Choice::No) | (Device::OfServices, _) | (Device::Dummy, Choice::ByDefault) => false,
            (Device::Dummy, Choice::ByRange) | (Device::Ordinary, _) => true,
        };
        if is_chosen && is_reachable(address) && used(address).is_none() {
            addresses.insert(address);
        }
    }
    for &address in of_node {
        if ranges.choose(address, &primary) != Choice::No
            && is_reachable(address)
            && used(address) != Some(ServiceUse::ClusterIP)
        {
            addresses.insert(address);
        }
    }
    addresses.into_iter().collect()
}

/// The first address, and the first of the other family (`GetNodeHostIPs` in `pkg/util/node`).
fn primary(of_node: &[IpAddr]) -> Vec<IpAddr> {
    let first = of_node.first().copied();
    let other = of_node
        .iter()
        .copied()
        .find(|address| first.is_some_and(|first| Family::of(first) != Family::of(*address)));
    first.into_iter().chain(other).collect()
}

pub(super) fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests;
