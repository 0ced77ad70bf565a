//! How much of the allocator's maps is in use.

use super::Allocator;
use crate::bpf::kinds::growable_hash::MapUsage;

impl Allocator {
    pub fn removed_counts_usage(&self) -> MapUsage {
        self.removed_counts.usage()
    }

    pub fn carried_counts_usage(&self) -> MapUsage {
        self.removed_counts.carried_usage()
    }

    pub fn usage(&self) -> AllocatorUsage {
        AllocatorUsage {
            slots: self.slot_ids.used(),
            slots_allocated: self.slots.allocated(),
            slots_limit: self.slots.limit(),
            backends: self.backend_ids.used().saturating_sub(1),
            backends_allocated: self.backends.allocated(),
            backends_limit: self.max_backends(),
        }
    }
}

/// Entries in use (pending ones included), entries that memory exists for, entries allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocatorUsage {
    pub slots: u32,
    pub slots_allocated: u32,
    pub slots_limit: u32,
    pub backends: u32,
    pub backends_allocated: u32,
    pub backends_limit: u32,
}
