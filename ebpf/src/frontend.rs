//! Frontends: what is at a service address.

use crate::{
    address::Address,
    backend::Scopes,
    byte_enum::byte_enum,
    id::{ServiceId, SlotIndex},
};

/// Key of the frontends hash.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrontendKey {
    pub address: Address,
    /// Network byte order.
    pub port: u16,
    /// A [`Protocol`].
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

byte_enum! {
    /// The protocols of a Service's ports, by their IP protocol numbers.
    pub enum Protocol {
        Tcp = 6,
        Udp = 17,
        Sctp = 132,
    }
}

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
    /// Index of the first slot of the range.
    pub slot_start: SlotIndex,
    pub slot_count: u32,
    /// Session affinity timeout; 0 is none.
    pub affinity_seconds: u32,
    /// An [`Action`].
    pub action: u8,
    /// A [`Reason`], unless the action is to forward.
    pub reason: u8,
    /// A [`FrontendKind`].
    pub kind: u8,
    /// A [`Balance`].
    pub balance: u8,
    /// Which of [`crate::backend::Backend::scopes`] the backends of this frontend have.
    pub scope: Scopes,
    pub padding: u8,
    /// Of a NodePort with the endpoints of one other node alone: a number that stands for the node, so
    /// that session affinity is one for each node, as it is on the nodes. Else 0.
    pub node: u16,
}

// SAFETY: integers only, the padding is a field.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Frontend {}

byte_enum! {
    /// What becomes of a call to a frontend.
    pub enum Action {
        /// It goes to a backend.
        Forward = 0,
        /// It fails with ECONNREFUSED.
        Refuse = 1,
        /// It goes through unchanged.
        Bypass = 2,
    }
}

byte_enum! {
    /// Why a frontend does not forward. The first [`crate::counters::REFUSALS`] are those of refusals.
    pub enum Reason {
        NoEndpoints = 0,
        NoLocalEndpoints = 1,
        SourceRanges = 2,
        Protocol = 3,
        RedirectDisabled = 4,
        TooLarge = 5,
    }
}

byte_enum! {
    /// Where the address comes from in the Service.
    pub enum FrontendKind {
        ClusterIp = 0,
        ExternalIp = 1,
        LoadBalancer = 2,
        NodePort = 3,
    }
}

byte_enum! {
    /// How a backend is chosen.
    pub enum Balance {
        /// At random, by weight.
        Random = 0,
    }
}

/// The first and only index of the array of maps that holds the current frontends hash.
pub const CURRENT: u32 = 0;

/// Entries that the first frontends hash has room for; the agent replaces it by a larger one
/// before it is full.
pub const FIRST_CAPACITY: u32 = 4096;

const _: () = assert!(size_of::<FrontendKey>() == 20);
const _: () = assert!(size_of::<Frontend>() == 44);
