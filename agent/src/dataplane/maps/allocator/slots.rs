//! Slots: ranges of them, one slot for each backend of a list.

use std::time::Instant;

use sockline_ebpf::{backend::Slot, id::SlotIndex};

use super::{
    Allocator,
    reclaim::{PendingFree, WaitPolicy},
};
use crate::{
    bpf::error::Full,
    dataplane::{error::DataplaneError, maps::SLOTS},
};

impl Allocator {
    /// Marks slots found in the kernel as used; false if they overlap with others.
    pub fn restore_slots(&mut self, start: SlotIndex, count: u32) -> bool {
        count == 0 || self.slot_ids.take_at(start.0, count)
    }

    pub fn slot(&self, index: SlotIndex) -> Option<Slot> {
        self.slots.read(index.0)
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

    /// Rewrites a slot that is in use. Whatever a program reads of it leads to a backend of the
    /// service, or to another service's, which the owner check rejects.
    pub fn rewrite_slot(&mut self, index: SlotIndex, slot: Slot) -> Result<(), DataplaneError> {
        self.slots.cell(index.0)?.write(slot);
        Ok(())
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
}
