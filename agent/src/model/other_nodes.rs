//! The addresses of the other nodes, if NodePorts are served at all nodes' addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{node_addresses::is_reachable, object::Node};

/// All other nodes, by name.
#[derive(Debug, Default)]
pub struct OtherNodes {
    addresses: BTreeMap<Arc<str>, Vec<IpAddr>>,
    version: u64,
}

impl OtherNodes {
    /// Adds or updates a node. Returns whether that is a change.
    pub fn put(&mut self, node: &Node) -> bool {
        let addresses: Vec<IpAddr> =
            node.addresses.iter().copied().filter(|ip| is_reachable(*ip)).collect();
        let is_news = self.addresses.get(&node.name) != Some(&addresses);
        if is_news {
            self.addresses.insert(Arc::clone(&node.name), addresses);
            self.version += 1;
        }
        is_news
    }

    /// Removes a node. Returns whether that is a change.
    pub fn remove(&mut self, name: &str) -> bool {
        let is_news = self.addresses.remove(name).is_some();
        self.version += u64::from(is_news);
        is_news
    }

    /// The addresses of a node; empty if it is unknown, or this node.
    #[must_use]
    pub fn of(&self, name: &str) -> &[IpAddr] {
        self.addresses.get(name).map_or(&[], Vec::as_slice)
    }

    /// The addresses of all nodes.
    #[must_use]
    pub fn all(&self) -> BTreeSet<IpAddr> {
        self.addresses.values().flatten().copied().collect()
    }

    /// A number that changes when the addresses do.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }
}

/// The number of a node in the kernel; never 0. Two nodes with the same number only share the session affinity of
/// their clients.
#[must_use]
pub fn number(name: &str) -> u16 {
    // FNV-1a, folded.
    let hash = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    u16::from_be_bytes([a ^ c, b ^ d]).max(1)
}
