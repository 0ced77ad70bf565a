//! Usage of the maps that programs write: it has to be counted by reading all entries.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use aya::maps::{IterableMap as _, MapData, MapError, PerCpuHashMap};
use sockline_ebpf::{
    counters::ServiceCounters,
    frontend::{Frontend, FrontendKey},
    socket::{Affinity, AffinityKey, SocketSet, WAYS},
};

use super::overflow::{Accounts, OverLimit};
use crate::{
    bpf::{
        kinds::{growable_hash::MapUsage, hash},
        mmap::SharedArray,
        syscall,
    },
    dataplane::{
        error::DataplaneError,
        maps::{self, AFFINITY, AffinityHash, SERVICES},
        pinning::layout::Pins,
    },
};

/// Free entries of an LRU hash that each CPU caches (Linux `LOCAL_FREE_TARGET`), while others evict
/// entries.
const KEPT_BY_A_CPU: u64 = 128;

/// A scan of the maps that programs write. Takes some milliseconds for each 100,000 entries, and no
/// lock.
pub struct MapScan {
    affinity: AffinityHash,
    counters: PerCpuHashMap<MapData, u32, ServiceCounters>,
    sockets: Option<SharedArray<SocketSet>>,
    accounts: Accounts,
    cgroup: PathBuf,
    /// Service id → affinity timeout in nanoseconds; only services that have one.
    timeouts: HashMap<u32, u64>,
    /// When the timeouts were looked up (`CLOCK_MONOTONIC`).
    as_of: u64,
}

/// What a [`MapScan`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScannedUsage {
    pub affinity: MapUsage,
    /// The map evicts affinities that are still valid.
    pub affinity_full: bool,
    /// Expired affinities that were removed.
    pub expired: usize,
    pub counters: MapUsage,
    /// The ids of the services with counters, if that map is full.
    pub counted: Option<HashSet<u32>>,
    pub sockets: Option<MapUsage>,
    /// Records of sockets beyond the socket table.
    pub overflow: MapUsage,
    pub over_limit: Vec<OverLimit>,
}

impl MapScan {
    pub(crate) fn new(
        pins: &Pins,
        cgroup: &Path,
        has_socket_table: bool,
        frontends: &HashMap<FrontendKey, Frontend>,
    ) -> Result<Self, DataplaneError> {
        let mut timeouts = HashMap::new();
        for entry in frontends.values().filter(|entry| entry.affinity_seconds > 0) {
            let longest: &mut u64 = timeouts.entry(entry.service).or_default();
            *longest = (*longest).max(u64::from(entry.affinity_seconds) * 1_000_000_000);
        }
        Ok(Self {
            affinity: maps::open_affinity(pins)?,
            counters: maps::open_services(pins)?,
            sockets: has_socket_table.then(|| maps::open_sockets(pins)).transpose()?,
            accounts: Accounts::open(pins)?,
            cgroup: cgroup.to_owned(),
            timeouts,
            as_of: syscall::monotonic_nanoseconds(),
        })
    }

    /// Counts entries, and removes expired affinities: the kernel evicts them only when the map is
    /// full, and until then they would count as used.
    pub fn run(mut self) -> Result<ScannedUsage, DataplaneError> {
        let mut counted = ScannedUsage::default();
        self.count_affinity(&mut counted)?;
        self.count_counters(&mut counted)?;
        counted.overflow = self.accounts.usage();
        counted.over_limit = self.accounts.over_limit(&self.cgroup);
        counted.sockets = self.sockets.map(|table| {
            let in_use =
                |set| table.read(set).cookies.iter().filter(|&&cookie| cookie != 0).count();
            let capacity = (table.len() * WAYS) as u64;
            let entries = (0..table.len()).map(in_use).sum::<usize>() as u64;
            MapUsage { entries, capacity, limit: capacity }
        });
        Ok(counted)
    }

    fn count_affinity(&mut self, counted: &mut ScannedUsage) -> Result<(), DataplaneError> {
        let mut entries = 0;
        let mut over = Vec::new();
        hash::for_each(AFFINITY, &self.affinity, |key: &AffinityKey, values: &[Affinity]| {
            entries += 1;
            if values.iter().all(|value| self.is_over(key, value)) {
                over.push(*key);
            }
        })?;
        let failed = |error| DataplaneError::map(AFFINITY, "write", error);
        for key in over {
            // Its client may have connected again since.
            match self.affinity.get(&key, 0) {
                Ok(value) if self.is_over(&key, &value) => {}
                Ok(_) | Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(failed(error)),
            }
            match self.affinity.remove(&key) {
                Ok(()) => counted.expired += 1,
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let capacity = self.affinity.map().info().map_err(failed)?.max_entries().into();
        let entries = entries - counted.expired as u64;
        counted.affinity_full = is_full(entries, capacity);
        counted.affinity = MapUsage { entries, capacity, limit: capacity };
        Ok(())
    }

    /// Whether an affinity has expired. A service without a timeout lost its affinity, or is newer
    /// than the look-up of the timeouts.
    fn is_over(&self, key: &AffinityKey, value: &Affinity) -> bool {
        value.choice.idle(self.as_of) > self.timeouts.get(&key.service).copied().unwrap_or(0)
    }

    fn count_counters(&self, counted: &mut ScannedUsage) -> Result<(), DataplaneError> {
        let mut ids = HashSet::new();
        hash::for_each(SERVICES, &self.counters, |&id: &u32, _: &[ServiceCounters]| {
            ids.insert(id);
        })?;
        let info = self.counters.map().info();
        let info = info.map_err(|error| DataplaneError::map(SERVICES, "read", error))?;
        let capacity = info.max_entries().into();
        counted.counters = MapUsage { entries: ids.len() as u64, capacity, limit: capacity };
        counted.counted = (ids.len() as u64 >= capacity).then_some(ids);
        Ok(())
    }
}

/// Whether an LRU hash evicts entries that are not the oldest, or soon will.
fn is_full(entries: u64, capacity: u64) -> bool {
    let cpus = aya::util::nr_cpus().unwrap_or(1) as u64;
    entries + (KEPT_BY_A_CPU * cpus).min(capacity / 4) >= capacity
}
