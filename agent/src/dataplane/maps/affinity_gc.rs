//! Garbage collection of session affinities.
//!
//! The kernel evicts expired affinities only when the map is full, and until then they count as used. So the
//! agent removes them.

use std::collections::HashMap;

use aya::maps::{IterableMap as _, MapError};
use sockline_ebpf::{
    frontend::{Frontend, FrontendKey},
    id::ServiceId,
    socket::{Affinity, AffinityKey},
};

use super::{AFFINITY, AffinityHash};
use crate::{
    bpf::{
        kinds::{growable_hash::MapUsage, hash},
        syscall,
    },
    dataplane::{error::DataplaneError, maps, pinning::layout::Pins},
};

/// Free entries of an LRU hash that each CPU caches (Linux `LOCAL_FREE_TARGET`), while others evict
/// entries.
const CACHED_BY_A_CPU: u64 = 128;

/// A run over all affinities.
pub struct AffinityGc {
    affinity: AffinityHash,
    /// Service id → affinity timeout in nanoseconds; only services that have one.
    timeouts: HashMap<ServiceId, u64>,
    /// When the timeouts were looked up (`CLOCK_MONOTONIC`).
    as_of: u64,
}

/// What a run found.
#[derive(Debug)]
pub struct AffinityUsage {
    pub usage: MapUsage,
    /// The map evicts affinities that are still valid.
    pub is_full: bool,
    /// Expired affinities that were removed.
    pub expired: usize,
}

impl AffinityGc {
    pub fn new(
        pins: &Pins,
        frontends: &HashMap<FrontendKey, Frontend>,
    ) -> Result<Self, DataplaneError> {
        let mut timeouts = HashMap::new();
        for entry in frontends.values().filter(|entry| entry.affinity_seconds > 0) {
            let longest: &mut u64 = timeouts.entry(entry.service).or_default();
            *longest = (*longest).max(u64::from(entry.affinity_seconds) * 1_000_000_000);
        }
        Ok(Self {
            affinity: maps::open_affinity(pins)?,
            timeouts,
            as_of: syscall::monotonic_nanoseconds(),
        })
    }

    /// Counts affinities, and removes expired ones.
    pub fn run(&mut self) -> Result<AffinityUsage, DataplaneError> {
        let (mut entries, mut expired) = (0, 0);
        let mut expired_keys = Vec::new();
        hash::for_each(AFFINITY, &self.affinity, |key: &AffinityKey, values: &[Affinity]| {
            entries += 1;
            if values.iter().all(|value| self.is_expired(key, value)) {
                expired_keys.push(*key);
            }
        })?;
        let failed = |error| DataplaneError::map(AFFINITY, "write", error);
        for key in expired_keys {
            // Its client may have connected again since.
            match self.affinity.get(&key, 0) {
                Ok(value) if self.is_expired(&key, &value) => {}
                Ok(_) | Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(failed(error)),
            }
            match self.affinity.remove(&key) {
                Ok(()) => expired += 1,
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let capacity = self.affinity.map().info().map_err(failed)?.max_entries().into();
        let entries = entries - expired as u64;
        let usage = MapUsage { entries, capacity, limit: capacity };
        Ok(AffinityUsage { usage, is_full: is_full(entries, capacity), expired })
    }

    /// Whether an affinity has expired. A service without a timeout lost its affinity, or is newer
    /// than the look-up of the timeouts.
    fn is_expired(&self, key: &AffinityKey, value: &Affinity) -> bool {
        value.choice.idle(self.as_of) > self.timeouts.get(&key.service).copied().unwrap_or(0)
    }
}

/// Whether an LRU hash evicts entries that are not the oldest, or soon will.
fn is_full(entries: u64, capacity: u64) -> bool {
    let cpus = aya::util::nr_cpus().unwrap_or(1) as u64;
    entries + (CACHED_BY_A_CPU * cpus).min(capacity / 4) >= capacity
}
