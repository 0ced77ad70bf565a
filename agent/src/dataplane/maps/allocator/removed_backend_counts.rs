//! Connection counts of removed backends: they stay with their service, so that its total never
//! decreases.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sockline_ebpf::id::ServiceId;

use crate::{
    bpf::kinds::growable_hash::{GrowableHash, MapUsage},
    dataplane::{error::DataplaneError, maps::REMOVED_BACKENDS, pinning::layout::Pins},
};

/// Held while a count moves from a backend to its service, while a backend has no owner for a
/// moment, and while counts are summed: so no sum has a count twice or lacks it.
#[derive(Debug, Clone, Default)]
pub struct TransferLock(Arc<Mutex<()>>);

impl TransferLock {
    pub fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Service id → connections of its removed backends.
pub struct RemovedBackendCounts {
    map: GrowableHash<ServiceId, u64>,
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

    pub fn of(&self, service: ServiceId) -> Result<u64, DataplaneError> {
        Ok(self.map.get(&service)?.unwrap_or(0))
    }

    pub fn add(&mut self, service: ServiceId, connections: u64) -> Result<(), DataplaneError> {
        if connections == 0 {
            return Ok(());
        }
        let total = self.of(service)? + connections;
        Ok(self.map.insert(&service, &total)?)
    }

    /// Removes a service's count; it has none if no backend of it was ever removed.
    pub fn remove(&mut self, service: ServiceId) {
        self.map.remove(&service);
    }
}
