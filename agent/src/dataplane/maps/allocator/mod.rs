//! Allocates slots, backend ids and service ids, writes slots and backends, and frees them after a grace period.
//!
//! Called by `reconcile`. [`range_allocator`] knows which indices are free, [`alias`] makes the slots of a list
//! of backends, [`backend_entry`] writes a backend while programs read it, [`removed_backend_counts`] keeps the
//! connection counts of backends that were removed.
//!
//! Invariant: an index is used again only when [`GRACE_PERIOD`] has passed and every program that ran when it
//! was freed has ended (RCU). So no running program sees an index change its meaning.

pub mod alias;
pub mod backend_entry;
mod range_allocator;
pub mod removed_backend_counts;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use sockline_ebpf::{
    backend::{Backend, Slot},
    id::{BackendId, ServiceId, SlotIndex},
};

use self::{
    range_allocator::RangeAllocator,
    removed_backend_counts::{RemovedBackendCounts, TransferLock},
};
use super::{BACKENDS, SLOTS};
use crate::{
    bpf::{
        error::Full,
        kinds::{
            array_of_maps::Repaired,
            growable_hash::MapUsage,
            segmented_array::{Reader, SegmentedArray},
        },
        rcu::Rcu,
    },
    dataplane::error::DataplaneError,
};

/// Freed indices wait at least this long. The RCU wait that follows is what makes reuse safe; this
/// only makes it rare.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// Whether to wait for pending entries if they would make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitPolicy {
    /// Some 20 ms.
    Wait,
    Never,
}

/// Limit of service ids: far more than frontends.
pub const SERVICE_IDS: u32 = 1 << 24;

pub struct Allocator {
    slots: SegmentedArray<Slot>,
    backends: SegmentedArray<Backend>,
    slot_ids: RangeAllocator,
    backend_ids: RangeAllocator,
    service_ids: RangeAllocator,
    removed_counts: RemovedBackendCounts,
    rcu: Rcu,
    pending: VecDeque<(Instant, PendingFree)>,
    /// Of these, slots and backends.
    pending_slots: u32,
    pending_backends: u32,
    /// Something was reclaimed since the last [`Self::take_freed`].
    freed: bool,
}

#[derive(Debug, Clone, Copy)]
enum PendingFree {
    Slots { start: SlotIndex, count: u32 },
    Backend { id: BackendId },
    Service { id: ServiceId },
}

impl Allocator {
    pub fn new(
        slots: SegmentedArray<Slot>,
        backends: SegmentedArray<Backend>,
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
            removed_counts,
            rcu,
            pending: VecDeque::new(),
            pending_slots: 0,
            pending_backends: 0,
            freed: false,
        }
    }

    /// Marks slots found in the kernel as used; false if they overlap with others.
    pub fn restore_slots(&mut self, start: SlotIndex, count: u32) -> bool {
        count == 0 || self.slot_ids.take_at(start.0, count)
    }

    pub fn restore_backend(&mut self, id: BackendId) -> bool {
        self.backend_ids.take_at(id.0, 1)
    }

    /// Frees every backend entry in the kernel that was not restored: an agent ended while it was
    /// pending.
    pub fn sweep(&mut self, restored: impl Fn(BackendId) -> bool) -> Result<(), DataplaneError> {
        let stale: Vec<BackendId> = self
            .backends
            .indices()
            .map(BackendId)
            .filter(|&id| !restored(id) && self.is_owned(id))
            .collect();
        stale.into_iter().try_for_each(|id| self.clear_and_count(id))
    }

    /// Searches `count` backends from an id on for entries in use that were never allocated.
    /// Returns them, and where to continue.
    pub fn stale_backends(
        &self,
        from: BackendId,
        count: u32,
    ) -> (Vec<BackendId>, Option<BackendId>) {
        let end = self.backends.allocated_to();
        let to = from.0.saturating_add(count).min(end);
        let stale = (from.0..to)
            .map(BackendId)
            .filter(|&id| self.is_owned(id) && self.backend_ids.is_free(id.0))
            .collect();
        (stale, (to < end).then_some(BackendId(to)))
    }

    fn is_owned(&self, id: BackendId) -> bool {
        self.backend(id).is_some_and(|backend| backend.service != ServiceId::NONE)
    }

    /// Clears an entry that no service owns.
    pub fn clear_backend(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        backend_entry::clear(&self.backends.cell(id.0)?);
        Ok(())
    }

    /// See [`crate::bpf::kinds::array_of_maps::ArrayOfMaps::repair`].
    pub fn repair_arrays(&self) -> Result<Repaired, DataplaneError> {
        Ok(self.slots.repair()? + self.backends.repair()?)
    }

    /// See [`crate::bpf::kinds::array_of_maps::ArrayOfMaps::displaced`].
    pub fn displaced(&self) -> Result<usize, DataplaneError> {
        Ok(self.slots.displaced()? + self.backends.displaced()?)
    }

    /// All backends, to be read while this writes.
    pub fn backends(&self) -> Reader<Backend> {
        self.backends.reader()
    }

    pub fn backend(&self, id: BackendId) -> Option<Backend> {
        self.backends.read(id.0)
    }

    pub fn slot(&self, index: SlotIndex) -> Option<Slot> {
        self.slots.read(index.0)
    }

    /// Ensures room for this many new backends.
    pub fn make_room(
        &mut self,
        backends: u32,
        wait_policy: WaitPolicy,
    ) -> Result<(), DataplaneError> {
        let free = self.free_backends();
        if backends > free && backends <= free.saturating_add(self.pending_backends) {
            self.reclaim_if(wait_policy)?;
        }
        if backends > 0 && backends > self.free_backends() {
            return Err(Full { map: BACKENDS, limit: self.max_backends() }.into());
        }
        Ok(())
    }

    const fn free_backends(&self) -> u32 {
        self.backends.limit().saturating_sub(self.backend_ids.used())
    }

    /// Writes a new backend and returns its id. Programs use it once its owner is written, which is
    /// last.
    pub fn add_backend(&mut self, backend: Backend) -> Result<BackendId, DataplaneError> {
        let full = Full { map: BACKENDS, limit: self.max_backends() };
        let id = BackendId(self.backend_ids.take(1).ok_or(full)?);
        let written = self.write_backend(id, backend);
        if written.is_err() {
            self.backend_ids.give(id.0, 1);
        }
        written.map(|()| id)
    }

    fn write_backend(&mut self, id: BackendId, backend: Backend) -> Result<(), DataplaneError> {
        backend_entry::make(&self.backends.cell(id.0)?, backend);
        Ok(())
    }

    /// Rewrites backends that are in use, under the same ids and generations. Until this is done
    /// (about 20 ms for all of them), calls that choose one fail open.
    pub fn repair_backends(
        &mut self,
        wanted: &[(BackendId, Backend)],
    ) -> Result<(), DataplaneError> {
        // An entry without an owner counts for no service, so sums wait until it has one again.
        let transfer_lock = self.transfer_lock();
        let _transfer = transfer_lock.lock();
        let mut disowned = Vec::new();
        for (id, backend) in wanted {
            let entry = self.backends.cell(id.0)?;
            if backend_entry::leads_elsewhere(&entry.read(), backend) {
                backend_entry::disown(&entry);
                disowned.push((id, backend));
            } else {
                backend_entry::change(&entry, backend.scopes, backend.weight);
            }
        }
        if disowned.is_empty() {
            return Ok(());
        }
        // Without this wait, a program might see the old owner and a part of the new address. If it
        // fails, the entries are written all the same: leaving them without an owner would be
        // worse.
        let waited = self.rcu.synchronize_rcu();
        for (id, backend) in disowned {
            backend_entry::repair(&self.backends.cell(id.0)?, backend);
        }
        Ok(waited?)
    }

    /// Rewrites a slot that is in use. Whatever a program reads of it leads to a backend of the
    /// service, or to another service's, which the owner check rejects.
    pub fn rewrite_slot(&mut self, index: SlotIndex, slot: Slot) -> Result<(), DataplaneError> {
        self.slots.cell(index.0)?.write(slot);
        Ok(())
    }

    /// Changes which frontends may use a backend, and its weight.
    pub fn change_backend(
        &mut self,
        id: BackendId,
        scopes: u8,
        weight: u16,
    ) -> Result<(), DataplaneError> {
        backend_entry::change(&self.backends.cell(id.0)?, scopes, weight);
        Ok(())
    }

    /// Frees a backend at once that was added and that no frontend leads to: no program can have
    /// seen it.
    pub fn withdraw_backend(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        self.clear_backend(id)?;
        self.backend_ids.give(id.0, 1);
        Ok(())
    }

    /// Removes a backend: sockets and clients that remember it choose again from now on. Its count
    /// moves to its service when it is reclaimed.
    pub fn remove_backend(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        let entry = self.backends.cell(id.0)?;
        backend_entry::change(&entry, 0, entry.read().weight);
        self.pending_backends += 1;
        self.pending.push_back((Instant::now(), PendingFree::Backend { id }));
        Ok(())
    }

    /// A new service's id; `None` when there is none left.
    pub fn add_service(&mut self) -> Option<ServiceId> {
        let id = ServiceId(self.service_ids.take(1)?);
        // An agent that was killed may have left a count for this id.
        self.removed_counts.remove(id);
        Some(id)
    }

    pub fn restore_service(&mut self, id: ServiceId) -> bool {
        self.service_ids.take_at(id.0, 1)
    }

    /// Removes a service whose backends were removed. Its id is reclaimed after them, so that no
    /// other service gets it while one of them still counts for it.
    pub fn remove_service(&mut self, id: ServiceId) {
        self.pending.push_back((Instant::now(), PendingFree::Service { id }));
    }

    /// Frees the id of a service at once that never had a frontend.
    pub fn withdraw_service(&mut self, id: ServiceId) {
        self.service_ids.give(id.0, 1);
    }

    /// See [`TransferLock`].
    pub fn transfer_lock(&self) -> TransferLock {
        self.removed_counts.transfer_lock().clone()
    }

    /// Clears a backend's entry and adds its count to its service's.
    fn clear_and_count(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        let transfer_lock = self.transfer_lock();
        let _transfer = transfer_lock.lock();
        if let Some(backend) = self.backend(id) {
            self.removed_counts.add(backend.service, backend.connections)?;
        }
        self.clear_backend(id)
    }

    /// Allocates slots in a row and returns the index of the first.
    pub fn take_slots(
        &mut self,
        count: u32,
        wait_policy: WaitPolicy,
    ) -> Result<SlotIndex, DataplaneError> {
        if count == 0 {
            return Ok(SlotIndex::default());
        }
        if let Some(start) = self.slot_ids.take(count) {
            return Ok(SlotIndex(start));
        }
        let limit = self.slots.limit();
        let free = |this: &Self| limit.saturating_sub(this.slot_ids.used());
        if count <= free(self).saturating_add(self.pending_slots) {
            self.reclaim_if(wait_policy)?;
        }
        self.slot_ids.take(count).map(SlotIndex).ok_or_else(|| {
            if count <= free(self) {
                DataplaneError::Fragmented { map: SLOTS, wanted: count, limit }
            } else {
                Full { map: SLOTS, limit }.into()
            }
        })
    }

    pub fn write_slots(&mut self, start: SlotIndex, slots: &[Slot]) -> Result<(), DataplaneError> {
        (0..)
            .zip(slots)
            .try_for_each(|(number, slot)| self.rewrite_slot(start.offset(number), *slot))
    }

    /// Frees slots at once that no frontend leads to.
    pub fn withdraw_slots(&mut self, start: SlotIndex, count: u32) {
        if count > 0 {
            self.slot_ids.give(start.0, count);
        }
    }

    pub fn remove_slots(&mut self, start: SlotIndex, count: u32) {
        if count > 0 {
            self.pending_slots += count;
            self.pending.push_back((Instant::now(), PendingFree::Slots { start, count }));
        }
    }

    /// Allocates memory for this many more slots and backends in one step. What does not fit is an
    /// error when it is added.
    pub fn reserve(&mut self, slots: u32, backends: u32) -> Result<(), DataplaneError> {
        self.slots.reserve(self.slot_ids.used().saturating_add(slots))?;
        Ok(self.backends.reserve(self.backend_ids.used().saturating_add(backends))?)
    }

    /// To wait for running programs before entries are reclaimed.
    pub const fn rcu(&self) -> &Rcu {
        &self.rcu
    }

    /// Whether an entry's grace period is over.
    pub fn has_reclaimable(&self) -> bool {
        self.pending.front().is_some_and(|(since, _)| since.elapsed() >= GRACE_PERIOD)
    }

    /// Reclaims what was freed before this time. Every program that ran then must have ended.
    pub fn reclaim_before(&mut self, time: Instant) -> Result<(), DataplaneError> {
        while let Some(&(since, pending)) = self.pending.front()
            && since < time
        {
            self.free(pending)?;
            self.pending.pop_front();
        }
        Ok(())
    }

    fn free(&mut self, pending: PendingFree) -> Result<(), DataplaneError> {
        match pending {
            PendingFree::Slots { start, count } => {
                self.slot_ids.give(start.0, count);
                self.pending_slots -= count;
                self.freed = true;
            }
            PendingFree::Backend { id } => {
                self.clear_and_count(id)?;
                self.backend_ids.give(id.0, 1);
                self.pending_backends -= 1;
                self.freed = true;
            }
            PendingFree::Service { id } => {
                self.removed_counts.remove(id);
                self.service_ids.give(id.0, 1);
            }
        }
        Ok(())
    }

    /// Whether something was reclaimed since the last call.
    pub const fn take_freed(&mut self) -> bool {
        std::mem::replace(&mut self.freed, false)
    }

    /// Reclaims all pending entries, because room is needed.
    fn reclaim_if(&mut self, wait_policy: WaitPolicy) -> Result<(), DataplaneError> {
        if self.pending.is_empty() || wait_policy == WaitPolicy::Never {
            return Ok(());
        }
        let now = Instant::now();
        self.rcu.synchronize_rcu()?;
        self.reclaim_before(now)
    }

    /// Without id 0, which is never allocated.
    fn max_backends(&self) -> u32 {
        self.backends.limit().saturating_sub(1)
    }

    pub fn repair_pin_of_removed_counts(&self) -> Result<bool, DataplaneError> {
        self.removed_counts.repair_pin()
    }

    pub fn removed_counts_usage(&self) -> MapUsage {
        self.removed_counts.usage()
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
