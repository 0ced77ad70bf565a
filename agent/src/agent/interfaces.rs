//! The node's own addresses: what a NodePort is at.

use std::{collections::BTreeSet, net::IpAddr};

use nix::ifaddrs::getifaddrs;

use crate::model::object::Node;

/// The addresses of this host's interfaces and those that its Node object has, without loopback
/// and link-local ones: those that kube-proxy calls local (`nodePortAddresses`).
pub fn node_addresses(node: Option<&Node>) -> Vec<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        address
            .as_sockaddr_in()
            .map(|v4| IpAddr::V4(v4.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    let own = node.into_iter().flat_map(|node| node.addresses.iter().copied());
    let all: BTreeSet<IpAddr> = interfaces.chain(own).filter(|ip| is_reachable(*ip)).collect();
    all.into_iter().collect()
}

fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}
