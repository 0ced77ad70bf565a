//! Allocates slots, backend ids and service ids, writes slots and backends, and frees them after a grace period.
//!
//! Called by `reconcile`. [`Allocator`] has a file for each thing that it allocates: `slots.rs`, `backends.rs` and
//! `services.rs`. `reclaim.rs` decides when a freed index may be used again. They use `range_allocator.rs`, which knows
//! which indices are free, [`backend_entry`], which writes a backend while programs read it, and
//! [`removed_backend_counts`], which keeps the connection counts of backends that were removed. [`alias`] makes the
//! slots of a list of backends, `usage` says how much is in use.
//!
//! Invariant: an index is used again only when the grace period has passed and every program that ran when it was freed
//! has ended (RCU). So no running program sees an index change its meaning.

pub mod alias;
pub mod backend_entry;
mod backends;
mod range_allocator;
mod reclaim;
pub mod removed_backend_counts;
mod services;
mod slots;
mod usage;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use sockline_ebpf::{
    backend::{Backend, Slot},
    carried::{CARRIED_SOURCES, CarriedCounts},
    id::{BackendId, ServiceId},
};

use self::{
    range_allocator::RangeAllocator,
    reclaim::PendingFree,
    removed_backend_counts::{RemovedBackendCounts, TransferLock},
};
pub use self::{reclaim::WaitPolicy, services::SERVICE_IDS, usage::AllocatorUsage};
use crate::{
    bpf::{
        kinds::{array_of_maps::Repaired, segmented_array::SegmentedArray},
        rcu::Rcu,
    },
    dataplane::{error::DataplaneError, maps::agent_state::LastService},
};

pub struct Allocator {
    slots: SegmentedArray<Slot>,
    backends: SegmentedArray<Backend>,
    slot_ids: RangeAllocator,
    backend_ids: RangeAllocator,
    service_ids: RangeAllocator,
    last_service: ServiceId,
    last_service_kept: LastService,
    removed_counts: RemovedBackendCounts,
    rcu: Rcu,
    pending: VecDeque<(Instant, PendingFree)>,
    /// Of these, slots and backends.
    pending_slots: u32,
    pending_backends: u32,
    /// Something was reclaimed since the last [`Self::take_freed`].
    freed: bool,
}

impl Allocator {
    pub fn new(
        slots: SegmentedArray<Slot>,
        backends: SegmentedArray<Backend>,
        last_service_kept: LastService,
        removed_counts: RemovedBackendCounts,
        rcu: Rcu,
    ) -> Self {
        let slot_ids = RangeAllocator::new(slots.limit());
        let mut backend_ids = RangeAllocator::new(backends.limit());
        // Id 0 is never allocated: an empty slot, all zeroes, leads to a backend without an owner.
        backend_ids.take_at(BackendId::NONE.0, 1);
        // Service 0 is the owner of free backends.
        let mut service_ids = RangeAllocator::new(SERVICE_IDS);
        service_ids.take_at(ServiceId::NONE.0, 1);
        Self {
            slots,
            backends,
            slot_ids,
            backend_ids,
            service_ids,
            last_service: last_service_kept.get(SERVICE_IDS).unwrap_or(ServiceId::NONE),
            last_service_kept,
            removed_counts,
            rcu,
            pending: VecDeque::new(),
            pending_slots: 0,
            pending_backends: 0,
            freed: false,
        }
    }

    /// Allocates memory for this many more slots and backends in one step. What does not fit is an
    /// error when it is added.
    pub fn reserve(&mut self, slots: u32, backends: u32) -> Result<(), DataplaneError> {
        self.slots.reserve(self.slot_ids.used().saturating_add(slots))?;
        Ok(self.backends.reserve(self.backend_ids.used().saturating_add(backends))?)
    }

    /// See [`TransferLock`].
    pub fn transfer_lock(&self) -> TransferLock {
        self.removed_counts.transfer_lock().clone()
    }

    /// See [`crate::bpf::kinds::array_of_maps::ArrayOfMaps::repair`].
    pub fn repair_arrays(&self) -> Result<Repaired, DataplaneError> {
        Ok(self.slots.repair()? + self.backends.repair()?)
    }

    /// See [`crate::bpf::kinds::array_of_maps::ArrayOfMaps::displaced`].
    pub fn displaced(&self) -> Result<usize, DataplaneError> {
        Ok(self.slots.displaced()? + self.backends.displaced()?)
    }

    pub fn repair_pins_of_removed_counts(&self) -> Result<usize, DataplaneError> {
        self.removed_counts.repair_pins()
    }

    /// See [`RemovedBackendCounts::carried_sources`].
    pub fn carried_sources(&self) -> Result<[u32; CARRIED_SOURCES], DataplaneError> {
        self.removed_counts.carried_sources()
    }

    /// See [`RemovedBackendCounts::carry`].
    pub fn carry(
        &mut self,
        more: BTreeMap<ServiceId, CarriedCounts>,
        sources: [u32; CARRIED_SOURCES],
    ) -> Result<(), DataplaneError> {
        self.removed_counts.carry(more, sources)
    }
}
