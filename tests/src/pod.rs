//! A pod: a network namespace behind a veth pair, routed by its node.

use std::{fmt::Write, net::IpAddr, ops::Deref, sync::Arc};

use anyhow::{Context, Result};

use crate::{
    Ns, iproute,
    node_parts::{QUIET_IPV6, Shared},
};

/// The gateway of every pod for IPv6: neighbour discovery answers only for addresses of the very
/// device, so each node end of a pair has this one. (For IPv4 any address of the node is answered.)
const GATEWAY_V6: &str = "fe80::1";

/// The two ends of every pair. Each end has a permanent entry for the other: a machine has one neighbour
/// table for all namespaces, of some hundred entries, and with many tests in parallel the kernel evicts
/// entries that are in use, with the packets that wait for their resolution.
const NODE_END: &str = "02:00:00:00:00:01";
const POD_END: &str = "02:00:00:00:00:02";

/// A pod of a node, in the node's cgroup. Dereferences to its namespace.
pub struct Pod {
    ns: Ns,
    addresses: Vec<IpAddr>,
    /// The node must outlive the pod: the pod's threads are in its cgroup.
    _node: Arc<Shared>,
}

impl Pod {
    pub(crate) fn create(node: &Arc<Shared>, name: &str, addresses: &[IpAddr]) -> Result<Self> {
        let ns = Ns::unshared(name, Some(node.inside()))?;
        iproute::sysctl(&ns, &QUIET_IPV6)?;

        let device = format!("pod{}", node.next_pod());
        let mut on_node = String::new();
        writeln!(
            on_node,
            "link add {device} address {NODE_END} type veth peer name eth0 address {POD_END} \
             netns {}",
            ns.path()
        )?;
        writeln!(on_node, "link set {device} addrgenmode none")?;
        writeln!(on_node, "link set {device} up")?;
        writeln!(on_node, "addr add {GATEWAY_V6}/64 dev {device} nodad")?;
        let mut in_pod = String::from("link set lo up\nlink set eth0 up\n");
        let (mut has_v4, mut has_v6) = (false, false);
        for &address in addresses {
            let source = node
                .address_like(address)
                .with_context(|| format!("the node has no address of the family of {address}"))?;
            writeln!(on_node, "route add {address} dev {device} src {source}")?;
            writeln!(on_node, "neigh add {address} lladdr {POD_END} dev {device} nud permanent")?;
            match address {
                IpAddr::V4(v4) => {
                    writeln!(in_pod, "addr add {v4}/32 dev eth0")?;
                    if !has_v4 {
                        writeln!(
                            in_pod,
                            "neigh add {source} lladdr {NODE_END} dev eth0 nud permanent"
                        )?;
                        writeln!(in_pod, "route add {source} dev eth0")?;
                        writeln!(in_pod, "route add default via {source} dev eth0")?;
                    }
                    has_v4 = true;
                }
                IpAddr::V6(v6) => {
                    writeln!(in_pod, "addr add {v6}/128 dev eth0 nodad")?;
                    if !has_v6 {
                        writeln!(
                            in_pod,
                            "neigh add {GATEWAY_V6} lladdr {NODE_END} dev eth0 nud permanent"
                        )?;
                        writeln!(in_pod, "route add default via {GATEWAY_V6} dev eth0")?;
                    }
                    has_v6 = true;
                }
            }
        }
        iproute::batch(node.outside(), &on_node)?;
        iproute::batch(&ns, &in_pod)?;
        node.outside().wait_for_carrier(&device)?;
        for address in addresses {
            if let IpAddr::V6(v6) = address {
                iproute::wait_for_local_route(&ns, *v6)?;
            }
        }
        Ok(Self { ns, addresses: addresses.to_vec(), _node: Arc::clone(node) })
    }

    /// The pod's addresses, in the order given.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

impl Deref for Pod {
    type Target = Ns;

    fn deref(&self) -> &Ns {
        &self.ns
    }
}
