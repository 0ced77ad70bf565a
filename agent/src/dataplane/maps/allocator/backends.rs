//! Backends: their ids, and their entries while programs read them.

use std::time::Instant;

use sockline_ebpf::{
    backend::{Backend, Scopes},
    id::{BackendId, ServiceId},
    traffic_class::TrafficClass,
};

use super::{
    Allocator,
    backend_entry::{self, CLASS},
    reclaim::{PendingFree, WaitPolicy},
};
use crate::{
    bpf::{error::Full, kinds::segmented_array::Reader},
    dataplane::{error::DataplaneError, maps::BACKENDS},
};

impl Allocator {
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
        self.free_stale(&stale)
    }

    /// Frees entries in use that are not allocated. Their counts go to their services.
    pub fn free_stale(&mut self, stale: &[BackendId]) -> Result<(), DataplaneError> {
        if stale.is_empty() {
            return Ok(());
        }
        let mut not_counted_yet = Vec::new();
        for &id in stale {
            let entry = self.backends.cell(id.0)?;
            let backend = entry.read();
            if self.removed_counts.has(id, &backend)? {
                // An agent was killed before it cleared this one. Only the last backend that was counted is known, so
                // it is cleared before others are counted. No program uses it: the agent had waited for them.
                backend_entry::clear(&entry);
            } else {
                // Programs may be counting here.
                backend_entry::retire(&entry, backend.generation);
                not_counted_yet.push(id);
            }
        }
        self.rcu.synchronize_rcu()?;
        not_counted_yet.into_iter().try_for_each(|id| self.clear_and_count(id))
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

    /// All backends, to be read while this writes.
    pub fn backends(&self) -> Reader<Backend> {
        self.backends.reader()
    }

    pub fn backend(&self, id: BackendId) -> Option<Backend> {
        self.backends.read(id.0)
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

    /// Without id 0, which is never allocated.
    pub(super) fn max_backends(&self) -> u32 {
        self.backends.limit().saturating_sub(1)
    }

    /// Writes a new backend and returns its id and generation. Programs use it once its owner is written,
    /// which is last.
    pub fn add_backend(&mut self, backend: Backend) -> Result<(BackendId, u32), DataplaneError> {
        let full = Full { map: BACKENDS, limit: self.max_backends() };
        let id = BackendId(self.backend_ids.take(1).ok_or(full)?);
        let written = self.write_backend(id, backend);
        if written.is_err() {
            self.backend_ids.give(id.0, 1);
        }
        written.map(|generation| (id, generation))
    }

    fn write_backend(&mut self, id: BackendId, backend: Backend) -> Result<u32, DataplaneError> {
        Ok(backend_entry::make(&self.backends.cell(id.0)?, backend))
    }

    /// Rewrites backends that are in use, under the same ids. Until this is done
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
                backend_entry::correct(&entry, backend);
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

    /// Changes which frontends may use a backend, its weight, and the class of its traffic. What it has counted stays with
    /// the class that it had. An agent that is killed in between leaves that to the new class.
    pub fn change_backend(
        &mut self,
        id: BackendId,
        scopes: Scopes,
        weight: u16,
        class: TrafficClass,
    ) -> Result<(), DataplaneError> {
        let transfer_lock = self.transfer_lock();
        let entry = self.backends.cell(id.0)?;
        let former = entry.get(CLASS);
        if former == class.byte() {
            backend_entry::change(&entry, scopes, weight, class.byte());
            return Ok(());
        }
        let _transfer = transfer_lock.lock();
        backend_entry::change(&entry, scopes, weight, class.byte());
        let counted = Backend { class: former, ..entry.read() };
        self.removed_counts.keep_for_class(&counted, class)
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
    pub fn remove_backend(&mut self, id: BackendId, generation: u32) -> Result<(), DataplaneError> {
        backend_entry::retire(&self.backends.cell(id.0)?, generation);
        self.pending_backends += 1;
        self.pending.push_back((Instant::now(), PendingFree::Backend { id }));
        Ok(())
    }

    fn clear_backend(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        backend_entry::clear(&self.backends.cell(id.0)?);
        Ok(())
    }

    /// Clears a backend's entry and adds its count to its service's, if there still is one.
    pub(super) fn clear_and_count(&mut self, id: BackendId) -> Result<(), DataplaneError> {
        let transfer_lock = self.transfer_lock();
        let _transfer = transfer_lock.lock();
        if let Some(backend) = self.backend(id)
            && !self.service_ids.is_free(backend.service.0)
        {
            self.removed_counts.add(id, &backend)?;
        }
        self.clear_backend(id)
    }
}
