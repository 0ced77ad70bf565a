//! Ids of services. A service has no entry of its own: backends and frontends name it.

use std::time::Instant;

use sockline_ebpf::{
    backend::Backend,
    id::ServiceId,
    partly_counted::Part,
    socket::{About, SocketRecord},
};

use super::{Allocator, backend_entry, reclaim::PendingFree};
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

    /// Counts what is new of a connection that is open: at its backend while the entry belongs to it, else at its service.
    pub fn count_part(&mut self, record: &SocketRecord, part: &Part) -> Result<(), DataplaneError> {
        let is_its = |backend: Backend| {
            backend.service == record.service && backend.generation == record.generation
        };
        if self.backend(record.backend).is_some_and(is_its) {
            backend_entry::add_part(&self.backends.cell(record.backend.0)?, part);
            return Ok(());
        }
        if self.service_ids.is_free(record.service.0) {
            return Ok(());
        }
        let transfer_lock = self.transfer_lock();
        let _transfer = transfer_lock.lock();
        self.removed_counts.add_part(record.service, record.about, part)
    }

    /// Removes a service whose backends were removed. Its id is reclaimed after them, so that no
    /// other service gets it while one of them still counts for it.
    pub fn remove_service(&mut self, id: ServiceId) {
        self.pending.push_back((Instant::now(), PendingFree::Service { id }));
    }
}
