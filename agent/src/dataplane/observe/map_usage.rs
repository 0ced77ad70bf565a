//! Usage of the maps that programs write: it has to be counted by reading all entries.
//!
//! Each map stands alone: one that cannot be read does not hide how full the others are.

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
    telemetry::ServiceStats,
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
            self, SERVICE_COUNTERS, SERVICE_STATS,
            affinity_gc::{AffinityGc, AffinityUsage},
            client_gc::{ClientGc, ClientUsage},
        },
        pinning::layout::Pins,
        programs::features::{FeatureSet, Features},
    },
};

type CountersHash = PerCpuHashMap<MapData, ServiceId, ServiceCounters>;
type StatsHash = PerCpuHashMap<MapData, ServiceId, ServiceStats>;

/// A scan of the maps that programs write. Takes some milliseconds for each 100,000 entries, and no
/// lock.
pub struct MapScan {
    affinity: Result<AffinityGc, DataplaneError>,
    clients: Result<ClientGc, DataplaneError>,
    counters: Result<CountersHash, DataplaneError>,
    stats: Result<StatsHash, DataplaneError>,
    /// `None` before Linux 5.12, where no program uses the table.
    sockets: Result<Option<SharedArray<SocketSet>>, DataplaneError>,
    overflow: Result<OverflowUsage, DataplaneError>,
    cgroup: PathBuf,
}

/// What a [`MapScan`] found; `None` is a map that could not be read.
#[derive(Debug, Default)]
pub struct ScannedUsage {
    pub affinity: Option<AffinityUsage>,
    pub clients: Option<ClientUsage>,
    pub counters: Option<CountersUsage>,
    pub stats: Option<MapUsage>,
    /// Also `None` if no program uses it.
    pub sockets: Option<MapUsage>,
    pub overflow: Option<OverflowScan>,
    pub unreadable: Vec<Unreadable>,
}

/// A map that could not be read.
#[derive(Debug)]
pub struct Unreadable {
    /// As `sockline status` and the metrics name it.
    pub map: &'static str,
    pub error: DataplaneError,
}

/// The map of counters of service ports.
#[derive(Debug)]
pub struct CountersUsage {
    pub usage: MapUsage,
    /// The ids of the services with counters, if the map is full.
    pub counted: Option<HashSet<ServiceId>>,
}

/// Records of sockets beyond the socket table.
#[derive(Debug)]
pub struct OverflowScan {
    pub usage: MapUsage,
    pub over_limit: Vec<OverLimit>,
}

impl MapScan {
    pub(crate) fn new(
        pins: &Pins,
        cgroup: &Path,
        features: Features,
        frontends: &HashMap<FrontendKey, Frontend>,
    ) -> Self {
        let has_table = features.has(FeatureSet::COMPARE_AND_SWAP);
        Self {
            affinity: AffinityGc::new(pins, frontends),
            clients: ClientGc::open(pins),
            counters: maps::open_service_counters(pins),
            stats: maps::open_service_stats(pins),
            sockets: has_table.then(|| maps::open_sockets(pins, Access::Read)).transpose(),
            overflow: OverflowUsage::open(pins),
            cgroup: cgroup.to_owned(),
        }
    }

    /// Counts entries, and removes expired affinities: the kernel evicts them only when the map is
    /// full, and until then they would count as used. Removes clients of services that are gone, too.
    pub fn run(self) -> ScannedUsage {
        let mut unreadable = Vec::new();
        ScannedUsage {
            affinity: counted(
                "affinity",
                self.affinity.and_then(|mut gc| gc.run()),
                &mut unreadable,
            ),
            clients: counted("clients", self.clients.and_then(|mut gc| gc.run()), &mut unreadable),
            counters: counted(
                "service-counters",
                self.counters.and_then(|map| count_counters(&map)),
                &mut unreadable,
            ),
            stats: counted(
                "service-stats",
                self.stats.and_then(|map| count_stats(&map)),
                &mut unreadable,
            ),
            sockets: counted("sockets", self.sockets, &mut unreadable)
                .flatten()
                .map(|table| count_sockets(&table)),
            overflow: counted("overflow", self.overflow, &mut unreadable).map(|counts| {
                OverflowScan { usage: counts.usage(), over_limit: counts.over_limit(&self.cgroup) }
            }),
            unreadable,
        }
    }
}

/// What was counted in a map. An error is added to those that could not be read.
fn counted<T>(
    map: &'static str,
    result: Result<T, DataplaneError>,
    unreadable: &mut Vec<Unreadable>,
) -> Option<T> {
    result.map_err(|error| unreadable.push(Unreadable { map, error })).ok()
}

fn count_counters(counters: &CountersHash) -> Result<CountersUsage, DataplaneError> {
    let mut ids = HashSet::new();
    hash::for_each(SERVICE_COUNTERS, counters, |&id: &ServiceId, _: &[ServiceCounters]| {
        ids.insert(id);
    })?;
    let info = counters.map().info();
    let info = info.map_err(|error| DataplaneError::map(SERVICE_COUNTERS, "read", error))?;
    let capacity = info.max_entries().into();
    Ok(CountersUsage {
        usage: MapUsage { entries: ids.len() as u64, capacity, limit: capacity },
        counted: (ids.len() as u64 >= capacity).then_some(ids),
    })
}

/// Reads the keys only: the values take up to 256 MiB.
fn count_stats(stats: &StatsHash) -> Result<MapUsage, DataplaneError> {
    let failed = |error| DataplaneError::map(SERVICE_STATS, "read", error);
    let capacity = stats.map().info().map_err(failed)?.max_entries();
    // After a key that is removed meanwhile, the kernel begins again: each counts once.
    let keys = stats.keys().take(capacity as usize);
    let ids: HashSet<ServiceId> = keys.collect::<Result<_, _>>().map_err(failed)?;
    let capacity = capacity.into();
    Ok(MapUsage { entries: ids.len() as u64, capacity, limit: capacity })
}

fn count_sockets(table: &SharedArray<SocketSet>) -> MapUsage {
    let in_use = |set| table.read(set).cookies.iter().filter(|&&cookie| cookie != 0).count();
    let capacity = (table.len() * WAYS) as u64;
    let entries = (0..table.len()).map(in_use).sum::<usize>() as u64;
    MapUsage { entries, capacity, limit: capacity }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_map_that_cannot_be_read_is_named_with_its_own_error() {
        fn failed<T>(map: &str) -> Result<T, DataplaneError> {
            Err(DataplaneError::io(format!("open {map}"), io::Error::other("gone")))
        }
        let scan = MapScan {
            affinity: failed("AFFINITY"),
            clients: failed("CLIENTS"),
            counters: failed("SERVICE_COUNTERS"),
            stats: failed("SERVICE_STATS"),
            sockets: Ok(None),
            overflow: failed("OVERFLOW_COUNTS"),
            cgroup: PathBuf::new(),
        };
        let found = scan.run().unreadable;
        let found: Vec<_> = found.iter().map(|one| (one.map, one.error.to_string())).collect();
        let expected = [
            ("affinity", "AFFINITY"),
            ("clients", "CLIENTS"),
            ("service-counters", "SERVICE_COUNTERS"),
            ("service-stats", "SERVICE_STATS"),
            ("overflow", "OVERFLOW_COUNTS"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((map, error), (name, of)) in found.iter().zip(expected) {
            assert!(*map == name && error.contains(of), "{map}: {error}");
        }
    }
}
