//! Ids of services. A service has no entry of its own: backends and frontends name it.

use std::time::Instant;

use sockline_ebpf::{id::ServiceId, socket::About};

use super::{Allocator, reclaim::PendingFree};
use crate::dataplane::error::DataplaneError;

/// Limit of service ids: far more than frontends.
pub const SERVICE_IDS: u32 = 1 << 24;

impl Allocator {
    /// An id in use above what was given out last says that this was changed. (Or ids went round: then those that
    /// follow were free for long.)
    pub fn restore_service(&mut self, id: ServiceId) -> bool {
        self.last_service = self.last_service.max(id);
        self.service_ids.take_at(id.0, 1)
    }

    /// A new service's id; `None` when there is none left.
    pub fn add_service(&mut self) -> Option<ServiceId> {
        // Not the lowest free one: sockets of the service that had an id before still count under it when they end,
        // even if there was another agent then.
        let id = ServiceId(self.service_ids.take_next(self.last_service.0 + 1)?);
        self.last_service = id;
        self.last_service_kept.set(id);
        // An agent that was killed may have left a count for this id.
        self.removed_counts.remove(id);
        Some(id)
    }

    /// Frees the id of a service at once that never had a frontend.
    pub fn withdraw_service(&mut self, id: ServiceId) {
        self.service_ids.give(id.0, 1);
    }

    /// Counts a connection to a removed backend whose end will not be seen.
    pub fn count_untracked(
        &mut self,
        service: ServiceId,
        about: About,
    ) -> Result<(), DataplaneError> {
        if self.service_ids.is_free(service.0) {
            return Ok(());
        }
        let transfer_lock = self.transfer_lock();
        let _transfer = transfer_lock.lock();
        self.removed_counts.add_untracked(service, about)
    }

    /// Removes a service whose backends were removed. Its id is reclaimed after them, so that no
    /// other service gets it while one of them still counts for it.
    pub fn remove_service(&mut self, id: ServiceId) {
        self.pending.push_back((Instant::now(), PendingFree::Service { id }));
    }
}
