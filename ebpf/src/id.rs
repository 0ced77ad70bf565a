//! Ids of services and backends, and indices of slots, as they stand in the maps: each its own type, so
//! that none is taken for another. They cost nothing: the programs and the maps have the plain number.

use core::fmt;

/// A service port: one port of a Service, with one protocol.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceId(pub u32);

impl ServiceId {
    /// The owner of free backend entries. No service port has this id.
    pub const NONE: Self = Self(0);
}

/// The index of a backend's entry in the map `BACKENDS`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BackendId(pub u32);

impl BackendId {
    /// Never allocated: an empty slot, all zeroes, leads to a backend without an owner.
    pub const NONE: Self = Self(0);
}

/// The index of a slot in the map `SLOTS`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SlotIndex(pub u32);

impl SlotIndex {
    /// The slot at this offset.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self, slots: u32) -> Self {
        Self(self.0.wrapping_add(slots))
    }
}

/// A backend: its id in the lower half, and in the upper one the generation of its entry. One number, because BPF
/// functions take numbers only (see `kernel/telemetry`).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendKey(pub u64);

impl BackendKey {
    #[inline(always)]
    #[must_use]
    pub const fn new(id: BackendId, generation: u32) -> Self {
        Self(id.0 as u64 | (generation as u64) << 32)
    }

    #[inline(always)]
    #[must_use]
    pub const fn id(self) -> BackendId {
        BackendId(self.0 as u32)
    }

    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SlotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// SAFETY: one integer.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceId {}
// SAFETY: one integer.
#[cfg(feature = "user")]
unsafe impl aya::Pod for BackendId {}
// SAFETY: one integer.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SlotIndex {}
