//! Frontends: what is at a service address.

use crate::{
    address::Address,
    id::{ServiceId, SlotIndex},
};

/// Key of the frontends hash.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrontendKey {
    pub address: Address,
    /// Network byte order.
    pub port: u16,
    /// [`TCP`], [`UDP`] or [`SCTP`].
    pub protocol: u8,
    pub padding: u8,
}

impl FrontendKey {
    /// Where a NodePort is for the addresses of all nodes that have no entry of their own: nobody
    /// dials the unspecified address, which is loopback ([`Address::as_loopback`]).
    #[inline(always)]
    #[must_use]
    pub const fn at_all_nodes(&self) -> Self {
        Self { address: self.address.to_unspecified(), ..*self }
    }

    /// The key that is in the hash if its address is another node's; no service has port 0.
    #[inline(always)]
    #[must_use]
    pub const fn node_mark(address: Address) -> Self {
        Self { address, port: 0, protocol: 0, padding: 0 }
    }

    /// Whether it is [`Self::node_mark`] of an address.
    #[must_use]
    pub const fn is_node_mark(&self) -> bool {
        self.port == 0 && self.protocol == 0
    }
}

// SAFETY: integers only, the padding is a field.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FrontendKey {}

/// IP protocol numbers.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// Value of the frontends hash.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// A copy of the key. The kernel may reuse a hash element while a program still looks at it
    /// (bpf_mem_alloc, Linux 6.1): a program that finds another key here looks up again.
    #[cfg(not(feature = "test-layout"))]
    pub key: FrontendKey,
    pub service: ServiceId,
    #[cfg(feature = "test-layout")]
    pub key: FrontendKey,
    /// Index of the first slot of the extent.
    pub slot_start: SlotIndex,
    pub slot_count: u32,
    /// Session affinity timeout; 0 is none.
    pub affinity_seconds: u32,
    /// [`FORWARD`], [`REFUSE`] or [`BYPASS`].
    pub action: u8,
    /// Index into [`crate::counters::ServiceCounters::refused`] and the plan's reasons.
    pub reason: u8,
    /// Where the address comes from: 0 ClusterIP, 1 ExternalIP, 2 LoadBalancer, 3 NodePort.
    pub kind: u8,
    /// How a backend is chosen: 0 random by weight.
    pub balance: u8,
    /// The bit in [`crate::backend::Backend::scopes`] of the backends that belong to this frontend.
    pub scope: u8,
    pub padding: u8,
    /// Of a NodePort with the endpoints of one other node alone: a number that stands for the node, so
    /// that session affinity is one for each node, as it is on the nodes. Else 0.
    pub node: u16,
}

// SAFETY: integers only, the padding is a field.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Frontend {}

pub const FORWARD: u8 = 0;
pub const REFUSE: u8 = 1;
pub const BYPASS: u8 = 2;

/// The first and only index of the outer map that holds the current frontends hash.
pub const CURRENT: u32 = 0;

/// Entries that the first frontends hash has room for; the agent replaces it by a larger one
/// before it is full.
pub const FIRST_CAPACITY: u32 = 4096;

const _: () = assert!(size_of::<FrontendKey>() == 20);
const _: () = assert!(size_of::<Frontend>() == 44);
