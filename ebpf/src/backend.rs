//! Slots and backends: what a frontend's connects are spread over.

use crate::{
    address::Address,
    id::{BackendId, ServiceId},
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

/// An endpoint of a service: one cache line.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    #[cfg(not(feature = "test-layout"))]
    pub address: Address,
    /// The owner. A program that comes here for another service looks up again: this entry has
    /// been reused under its feet. 0 is a free entry.
    pub service: ServiceId,
    /// Grows each time the entry is given to another endpoint, so that a socket or an affinity
    /// record that remembers the entry knows that its endpoint is gone.
    pub generation: u32,
    #[cfg(feature = "test-layout")]
    pub address: Address,
    /// Network byte order.
    pub port: u16,
    pub weight: u16,
    /// The frontends that may use this backend now, see [`INTERNAL_SCOPE`] and
    /// [`EXTERNAL_SCOPE`].
    pub scopes: u8,
    pub padding: [u8; 3],
    /// Connections that this endpoint was chosen for: live state, written by the programs. It lies
    /// here because a connect has this cache line anyway; a hash of per-CPU counters cost 60 ns.
    pub connections: u64,
    /// More live state to come.
    pub reserved: [u64; 3],
}

/// A backend of the ClusterIP frontends (`internalTrafficPolicy`).
pub const INTERNAL_SCOPE: u8 = 1;
/// A backend of the ExternalIP, LoadBalancer and NodePort frontends (`externalTrafficPolicy`).
pub const EXTERNAL_SCOPE: u8 = 2;

/// Slots per segment (64 KiB) and segments at most: 16 million slots.
pub const SLOT_SEGMENT: u32 = 4096;
pub const SLOT_SEGMENTS: u32 = 4096;

/// Backends per segment (64 KiB) and segments at most: 4 million backends.
pub const BACKEND_SEGMENT: u32 = 1024;
pub const BACKEND_SEGMENTS: u32 = 4096;

// SAFETY: integers only, the padding is a field.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Slot {}
// SAFETY: integers only, the padding is a field.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Backend {}

const _: () = assert!(size_of::<Slot>() == 16);
const _: () = assert!(size_of::<Backend>() == 64);
