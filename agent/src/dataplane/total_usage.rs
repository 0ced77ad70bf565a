//! How full the maps are, as the agent knows it.

use super::{Dataplane, maps::allocator::AllocatorUsage};
use crate::bpf::kinds::growable_hash::MapUsage;

/// How full the maps are.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub services: usize,
    pub frontends: usize,
    pub frontends_capacity: u32,
    pub frontends_limit: u32,
    pub allocator: AllocatorUsage,
    pub names: MapUsage,
    pub removed_counts: MapUsage,
    pub carried_counts: MapUsage,
    /// Service ports that are retained because an object is invalid.
    pub retained: usize,
    /// Service ports that lack an address because a retained one has it.
    pub waiting_for_address: usize,
    /// Service ports that only the previous agent knew and that are bypassed.
    pub released: usize,
    pub exclusion: MapUsage,
}

impl Dataplane {
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            services: self.reconciler.services(),
            frontends: self.reconciler.frontends(),
            frontends_capacity: self.reconciler.frontends_capacity(),
            frontends_limit: self.reconciler.frontends_limit(),
            allocator: self.reconciler.allocator_usage(),
            names: self.reconciler.names_usage(),
            removed_counts: self.reconciler.removed_counts_usage(),
            carried_counts: self.reconciler.carried_counts_usage(),
            retained: self.reconciler.retained(),
            waiting_for_address: self.reconciler.waiting_for_address(),
            released: self.reconciler.released(),
            exclusion: self.exclusion.usage(),
        }
    }
}
