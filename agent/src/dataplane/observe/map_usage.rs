//! Usage of the maps that programs write: it has to be counted by reading all entries.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use aya::maps::{IterableMap as _, MapData, PerCpuHashMap};
use sockline_ebpf::{
    counters::ServiceCounters,
    frontend::{Frontend, FrontendKey},
    id::ServiceId,
    socket::{SocketSet, WAYS},
};

use super::overflow::{OverLimit, OverflowUsage};
use crate::{
    bpf::{
        kinds::{growable_hash::MapUsage, hash},
        mmap::{Access, SharedArray},
    },
    dataplane::{
        error::DataplaneError,
        maps::{
            self, SERVICE_COUNTERS,
            affinity_gc::AffinityGc,
            client_gc::{ClientGc, ClientUsage},
        },
        pinning::layout::Pins,
        programs::features::{FeatureSet, Features},
    },
};

/// A scan of the maps that programs write. Takes some milliseconds for each 100,000 entries, and no
/// lock.
pub struct MapScan {
    affinity: AffinityGc,
    clients: ClientGc,
    counters: PerCpuHashMap<MapData, ServiceId, ServiceCounters>,
    sockets: Option<SharedArray<SocketSet>>,
    overflow_usage: OverflowUsage,
    cgroup: PathBuf,
}

/// What a [`MapScan`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScannedUsage {
    pub affinity: MapUsage,
    /// The map evicts affinities that are still valid.
    pub affinity_full: bool,
    /// Expired affinities that were removed.
    pub expired: usize,
    pub clients: ClientUsage,
    pub counters: MapUsage,
    /// The ids of the services with counters, if that map is full.
    pub counted: Option<HashSet<ServiceId>>,
    pub sockets: Option<MapUsage>,
    /// Records of sockets beyond the socket table.
    pub overflow: MapUsage,
    pub over_limit: Vec<OverLimit>,
}

impl MapScan {
    pub(crate) fn new(
        pins: &Pins,
        cgroup: &Path,
        features: Features,
        frontends: &HashMap<FrontendKey, Frontend>,
    ) -> Result<Self, DataplaneError> {
        Ok(Self {
            affinity: AffinityGc::new(pins, frontends)?,
            clients: ClientGc::open(pins)?,
            counters: maps::open_service_counters(pins)?,
            // Before Linux 5.12 no program uses the table.
            sockets: features
                .has(FeatureSet::COMPARE_AND_SWAP)
                .then(|| maps::open_sockets(pins, Access::Read))
                .transpose()?,
            overflow_usage: OverflowUsage::open(pins)?,
            cgroup: cgroup.to_owned(),
        })
    }

    /// Counts entries, and removes expired affinities: the kernel evicts them only when the map is
    /// full, and until then they would count as used. Removes clients of services that are gone, too.
    pub fn run(mut self) -> Result<ScannedUsage, DataplaneError> {
        let mut counted = ScannedUsage::default();
        let affinity = self.affinity.run()?;
        counted.affinity = affinity.usage;
        counted.affinity_full = affinity.is_full;
        counted.expired = affinity.expired;
        counted.clients = self.clients.run()?;
        self.count_counters(&mut counted)?;
        counted.overflow = self.overflow_usage.usage();
        counted.over_limit = self.overflow_usage.over_limit(&self.cgroup);
        counted.sockets = self.sockets.map(|table| {
            let in_use =
                |set| table.read(set).cookies.iter().filter(|&&cookie| cookie != 0).count();
            let capacity = (table.len() * WAYS) as u64;
            let entries = (0..table.len()).map(in_use).sum::<usize>() as u64;
            MapUsage { entries, capacity, limit: capacity }
        });
        Ok(counted)
    }

    fn count_counters(&self, counted: &mut ScannedUsage) -> Result<(), DataplaneError> {
        let mut ids = HashSet::new();
        hash::for_each(
            SERVICE_COUNTERS,
            &self.counters,
            |&id: &ServiceId, _: &[ServiceCounters]| {
                ids.insert(id);
            },
        )?;
        let info = self.counters.map().info();
        let info = info.map_err(|error| DataplaneError::map(SERVICE_COUNTERS, "read", error))?;
        let capacity = info.max_entries().into();
        counted.counters = MapUsage { entries: ids.len() as u64, capacity, limit: capacity };
        counted.counted = (ids.len() as u64 >= capacity).then_some(ids);
        Ok(())
    }
}
