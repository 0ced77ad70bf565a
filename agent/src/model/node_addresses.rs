//! The node's own addresses, at which NodePorts are served.
//!
//! The rule is kube-proxy 1.36's (`pkg/proxy/util/nodeport_addresses.go`, and `cmd/kube-proxy/app/server.go`
//! for `primary`), without addresses that only services use: kube-proxy in IPVS mode adds all of them
//! to a device of the node.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

use super::object::{Family, Node};

/// Devices whose addresses are those of services: kube-proxy's in IPVS mode (`pkg/proxy/ipvs`),
/// kube-router's, and NodeLocal DNS's (`-interfacename`).
pub const SERVICE_DEVICES: [&str; 3] = ["kube-ipvs0", "kube-dummy-if", "nodelocaldns"];

/// The entry of a NodePort for all loopback addresses of a family.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// How services use an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceUse {
    ClusterIP,
    LoadBalancer,
}

/// One element of `--nodeport-addresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressRange {
    All,
    /// The first address of each family in the Node object.
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
            // An empty environment variable.
            "" | "all" => Ok(Self::All),
            "primary" => Ok(Self::Primary),
            network => {
                network.parse().map(Self::Network).map_err(|_| RangeError(network.to_owned()))
            }
        }
    }
}

/// The node's addresses at which NodePorts are served. As with kube-proxy, a family without a range is served at
/// all of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodePortAddresses(pub Vec<AddressRange>);

/// The nodes at whose addresses NodePorts are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodePortScope {
    /// Only this node. Connections to another node are handled there.
    #[default]
    ThisNode,
    /// All nodes, for clusters without kube-proxy, where the other nodes do not serve NodePorts.
    AllNodes,
}

impl NodePortAddresses {
    fn chooses(&self, address: IpAddr, primary: &[IpAddr]) -> bool {
        let family = Family::of(address);
        let mut has_no_range = true;
        for range in &self.0 {
            match range {
                AddressRange::All => return true,
                AddressRange::Primary if primary.contains(&address) => return true,
                AddressRange::Primary => has_no_range = false,
                AddressRange::Network(network) if network.contains(&address) => return true,
                AddressRange::Network(network) => {
                    has_no_range &= Family::of(network.addr()) != family;
                }
            }
        }
        has_no_range
    }
}

/// The addresses at which NodePorts are served, sorted: those of the node's devices and of its Node object that
/// `ranges` select, without link-local ones, and 127.0.0.1 and ::1 if they select these.
///
/// NodePorts are not served at the address of a service, with exceptions for services that use an address of the
/// node: external IPs (keepalived), and load balancer addresses (K3s ServiceLB) that the Node object has. A load
/// balancer address that only a device has was added for its service (kube-vip). External IPs never exclude an
/// address, because any user who can write a Service can set them.
///
/// The kind of the device does not matter: routing daemons have the node's own addresses on a dummy device.
pub fn node_addresses(
    ranges: &NodePortAddresses,
    devices: &BTreeSet<IpAddr>,
    node: Option<&Node>,
    used: impl Fn(IpAddr) -> Option<ServiceUse>,
) -> Vec<IpAddr> {
    let of_node = node.map_or(&[][..], |node| &node.addresses);
    let primary = primary(of_node);
    let on_devices = devices.iter().copied().filter(|ip| used(*ip).is_none());
    let in_object = of_node.iter().copied().filter(|ip| used(*ip) != Some(ServiceUse::ClusterIP));
    let addresses: BTreeSet<IpAddr> = on_devices
        .chain(in_object)
        .filter(|ip| is_reachable(*ip))
        .chain(LOOPBACK)
        .filter(|ip| ranges.chooses(*ip, &primary))
        .collect();
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
