//! Connection counts of removed backends: they stay with their service, so that its totals never
//! decrease. And those of backends whose class changed: they stay with the class that they had.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sockline_ebpf::{
    backend::Backend,
    id::{BackendId, ServiceId},
    partly_counted::Part,
    socket::About,
    telemetry::{ConnectionCounts, RemovedBackends},
    traffic_class::TrafficClass,
};

use crate::{
    bpf::kinds::growable_hash::{GrowableHash, MapUsage},
    dataplane::{error::DataplaneError, maps::REMOVED_BACKENDS, pinning::layout::Pins},
};

/// Held while a count moves from a backend to its service or to another class, while a backend has no owner
/// for a moment, and while counts are summed: so no sum has a count twice or lacks it.
#[derive(Debug, Clone, Default)]
pub struct TransferLock(Arc<Mutex<()>>);

impl TransferLock {
    pub fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Service id → [`RemovedBackends`].
pub struct RemovedBackendCounts {
    map: GrowableHash<ServiceId, RemovedBackends>,
    transfer_lock: TransferLock,
}

impl RemovedBackendCounts {
    /// Has room for as many services as there may be frontends.
    pub fn open(pins: &Pins, max_frontends: u32) -> Result<Self, DataplaneError> {
        let map = GrowableHash::open(REMOVED_BACKENDS, pins.map(REMOVED_BACKENDS), max_frontends)?;
        Ok(Self { map, transfer_lock: TransferLock::default() })
    }

    pub fn usage(&self) -> MapUsage {
        self.map.usage()
    }

    /// See [`GrowableHash::repair_pin`].
    pub fn repair_pin(&self) -> Result<bool, DataplaneError> {
        Ok(self.map.repair_pin()?)
    }

    pub const fn transfer_lock(&self) -> &TransferLock {
        &self.transfer_lock
    }

    fn of(&self, service: ServiceId) -> Result<RemovedBackends, DataplaneError> {
        Ok(self.map.get(&service)?.unwrap_or_default())
    }

    /// Whether a backend's counts were added. An agent may be killed before it has cleared the entry.
    pub fn has(&self, id: BackendId, backend: &Backend) -> Result<bool, DataplaneError> {
        Ok(is_last(&self.of(backend.service)?, id, backend))
    }

    /// Adds the counts of a backend, unless that was done. One write says both, so an agent that is killed at any time
    /// leaves the one or the other.
    pub fn add(&mut self, id: BackendId, backend: &Backend) -> Result<(), DataplaneError> {
        if backend.counts == ConnectionCounts::NONE {
            return Ok(());
        }
        let mut removed = self.of(backend.service)?;
        if is_last(&removed, id, backend) {
            return Ok(());
        }
        removed.counts.of_byte(backend.class).add(&backend.counts);
        (removed.last, removed.last_generation) = (id, backend.generation);
        Ok(self.map.insert(&backend.service, &removed)?)
    }

    /// Keeps what a backend has counted for the class that it had, which is what `backend` has. Its entry is of another
    /// class now.
    pub fn keep_for_class(
        &mut self,
        backend: &Backend,
        class: TrafficClass,
    ) -> Result<(), DataplaneError> {
        if backend.counts == ConnectionCounts::NONE {
            return Ok(());
        }
        let mut removed = self.of(backend.service)?;
        removed.counts.of_byte(backend.class).add(&backend.counts);
        removed.counts.of_byte(class.byte()).subtract(&backend.counts);
        Ok(self.map.insert(&backend.service, &removed)?)
    }

    /// Adds a connection whose end will not be seen.
    pub fn add_untracked(
        &mut self,
        service: ServiceId,
        about: About,
    ) -> Result<(), DataplaneError> {
        let mut removed = self.of(service)?;
        let one = ConnectionCounts { untracked: 1, ..ConnectionCounts::NONE };
        removed.counts.of_byte(about.class()).add(&one);
        Ok(self.map.insert(&service, &removed)?)
    }

    /// Adds what is new of a connection that is open.
    pub fn add_part(
        &mut self,
        service: ServiceId,
        about: About,
        part: &Part,
    ) -> Result<(), DataplaneError> {
        let mut removed = self.of(service)?;
        let counts = removed.counts.of_byte(about.class());
        counts.add(&ConnectionCounts {
            sent: part.sent,
            received: part.received,
            retransmitted: part.retransmitted,
            ..ConnectionCounts::NONE
        });
        Ok(self.map.insert(&service, &removed)?)
    }

    /// Removes a service's count; it has none if no backend of it was ever removed.
    pub fn remove(&mut self, service: ServiceId) {
        self.map.remove(&service);
    }
}

/// Whether a backend's counts are the last that were added.
fn is_last(removed: &RemovedBackends, id: BackendId, backend: &Backend) -> bool {
    (removed.last, removed.last_generation) == (id, backend.generation)
}
