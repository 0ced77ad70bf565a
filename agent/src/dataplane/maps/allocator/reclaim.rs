//! When what was freed may be used again.

use std::time::{Duration, Instant};

use sockline_ebpf::id::{BackendId, ServiceId, SlotIndex};

use super::Allocator;
use crate::{bpf::rcu::Rcu, dataplane::error::DataplaneError};

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

/// What was freed and is not reclaimed yet.
#[derive(Debug, Clone, Copy)]
pub(super) enum PendingFree {
    Slots { start: SlotIndex, count: u32 },
    Backend { id: BackendId },
    Service { id: ServiceId },
}

impl Allocator {
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
    pub(super) fn reclaim_if(&mut self, wait_policy: WaitPolicy) -> Result<(), DataplaneError> {
        if self.pending.is_empty() || wait_policy == WaitPolicy::Never {
            return Ok(());
        }
        let now = Instant::now();
        self.rcu.synchronize_rcu()?;
        self.reclaim_before(now)
    }
}
