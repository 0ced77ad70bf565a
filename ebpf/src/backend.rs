//! Slots and backends: what a frontend's connects are spread over.

use crate::{
    address::Address,
    id::{BackendId, ServiceId},
    telemetry::ConnectionCounts,
};

/// One place of an alias table (M. D. Vose, 1991): a draw that lands here takes `backend` when its
/// fraction is below `threshold`, and `alias` otherwise.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// Share of this slot that belongs to `backend`, in units of 2^-32.
    #[cfg(feature = "test-layout")]
    pub threshold: u32,
    pub backend: BackendId,
    pub alias: BackendId,
    /// Share of this slot that belongs to `backend`, in units of 2^-32.
    #[cfg(not(feature = "test-layout"))]
    pub threshold: u32,
    pub padding: u32,
}

/// An endpoint of a service: two cache lines. Choosing it, and a connection that ends well, need the first only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    #[cfg(not(feature = "test-layout"))]
    pub address: Address,
    /// The owner. A program that comes here for another service looks up again: the entry was
    /// given to another endpoint meanwhile. 0 is a free entry.
    pub service: ServiceId,
    /// Grows each time the entry is given to another endpoint, so that a socket or an affinity
    /// record that remembers the entry knows that its endpoint is gone.
    pub generation: u32,
    #[cfg(feature = "test-layout")]
    pub address: Address,
    /// Network byte order.
    pub port: u16,
    pub weight: u16,
    /// The frontends that may use this backend now.
    pub scopes: Scopes,
    /// A [`crate::traffic_class::TrafficClass`]. `counts` has also what was counted before it changed, see
    /// [`crate::telemetry::RemovedBackends`].
    pub class: u8,
    pub padding: [u8; 2],
    /// Live state, written by the programs. What each connection counts lies in the cache line that a connect
    /// has anyway; a hash of per-CPU counters cost 60 ns.
    pub counts: ConnectionCounts,
    /// More live state to come.
    pub reserved: u64,
}

bitflags::bitflags! {
    /// Frontends, by the traffic policy that chooses their backends.
    #[repr(transparent)]
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Scopes: u8 {
        /// ClusterIP frontends (`internalTrafficPolicy`).
        const INTERNAL = 1;
        /// ExternalIP, LoadBalancer and NodePort frontends (`externalTrafficPolicy`).
        const EXTERNAL = 1 << 1;
    }
}

/// Slots per segment (64 KiB) and segments at most: 16 million slots.
pub const SLOT_SEGMENT: u32 = 4096;
pub const SLOT_SEGMENTS: u32 = 4096;

/// Backends per segment (128 KiB) and segments at most: 4 million backends.
pub const BACKEND_SEGMENT: u32 = 1024;
pub const BACKEND_SEGMENTS: u32 = 4096;

// SAFETY: integers only, the padding is a field.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Slot {}
// SAFETY: integers only, the padding is a field.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Backend {}
// SAFETY: one integer.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Scopes {}

const _: () = assert!(size_of::<Slot>() == 16);
const _: () = assert!(size_of::<Backend>() == 128);
