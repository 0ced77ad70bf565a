//! Connection counts of removed backends: they stay with their service, so that its totals never
//! decrease. And those of backends whose class changed: they stay with the class that they had. And what programs of other
//! layouts had counted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sockline_ebpf::{
    backend::Backend,
    carried::{CARRIED_SOURCES, CarriedCounts},
    id::{BackendId, ServiceId},
    partly_counted::Part,
    socket::About,
    telemetry::{ConnectionCounts, RemovedBackends},
    traffic_class::TrafficClass,
};

use crate::{
    bpf::kinds::growable_hash::{GrowableHash, MapUsage},
    dataplane::{
        error::DataplaneError,
        maps::{CARRIED_COUNTS, REMOVED_BACKENDS},
        pinning::layout::Pins,
    },
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

/// Service id → [`RemovedBackends`], and service id → [`CarriedCounts`].
pub struct RemovedBackendCounts {
    map: GrowableHash<ServiceId, RemovedBackends>,
    carried: GrowableHash<ServiceId, CarriedCounts>,
    transfer_lock: TransferLock,
}

impl RemovedBackendCounts {
    /// Has room for as many services as there may be frontends.
    pub fn open(pins: &Pins, max_frontends: u32) -> Result<Self, DataplaneError> {
        let map = GrowableHash::open(REMOVED_BACKENDS, pins.map(REMOVED_BACKENDS), max_frontends)?;
        let carried = GrowableHash::open(CARRIED_COUNTS, pins.map(CARRIED_COUNTS), max_frontends)?;
        Ok(Self { map, carried, transfer_lock: TransferLock::default() })
    }

    pub fn usage(&self) -> MapUsage {
        self.map.usage()
    }

    pub fn carried_usage(&self) -> MapUsage {
        self.carried.usage()
    }

    /// Pins the maps again that lost their pins; returns how many had. See [`GrowableHash::repair_pin`].
    pub fn repair_pins(&self) -> Result<usize, DataplaneError> {
        Ok(usize::from(self.map.repair_pin()?) + usize::from(self.carried.repair_pin()?))
    }

    /// Where the counts of other layouts came from that were carried over last.
    pub fn carried_sources(&self) -> Result<[u32; CARRIED_SOURCES], DataplaneError> {
        let sources = self.carried.get(&ServiceId::NONE)?;
        Ok(sources.map_or(CarriedCounts::NONE.sources, |entry| entry.sources))
    }

    /// Adds counts of other layouts, and where they come from, in one step.
    pub fn carry(
        &mut self,
        more: BTreeMap<ServiceId, CarriedCounts>,
        sources: [u32; CARRIED_SOURCES],
    ) -> Result<(), DataplaneError> {
        let mut all: BTreeMap<_, _> = self.carried.entries()?.into_iter().collect();
        for (id, counts) in more {
            all.entry(id).or_insert(CarriedCounts::NONE).add(&counts);
        }
        all.insert(ServiceId::NONE, CarriedCounts { sources, ..CarriedCounts::NONE });
        let capacity = u32::try_from(all.len()).unwrap_or(u32::MAX);
        Ok(self.carried.replace_all(all, capacity)?)
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

    /// Removes a service's counts; it has none if no backend of it was ever removed.
    pub fn remove(&mut self, service: ServiceId) {
        self.map.remove(&service);
        self.carried.remove(&service);
    }
}

/// Whether a backend's counts are the last that were added.
fn is_last(removed: &RemovedBackends, id: BackendId, backend: &Backend) -> bool {
    (removed.last, removed.last_generation) == (id, backend.generation)
}
