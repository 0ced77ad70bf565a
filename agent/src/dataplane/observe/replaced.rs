//! What was counted in the maps of another layout, whose programs do not run any more.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use sockline_ebpf::{
    carried::{CARRIED_SOURCES, CarriedCounts},
    counters::ServiceCounters,
    id::ServiceId,
    telemetry::{ConnectionCounts, Histogram, ServiceStats},
};

use crate::{
    bpf::{kinds::array_of_maps::ArrayOfMaps, untyped},
    dataplane::{
        error::DataplaneError,
        maps::{
            self,
            counts_format::{self, CountsFormat, Record},
            service_names::{self, ServiceKey},
        },
        pinning::layout::INNER,
    },
    model::probe_service::is_probe,
};

/// The counts of a layout that was replaced.
#[derive(Debug, Default)]
pub struct ReplacedCounts {
    pub by_service: BTreeMap<ServiceKey, CarriedCounts>,
    /// The layouts that these had carried over from, by the ids of their maps of backends.
    pub sources: [u32; CARRIED_SOURCES],
}

/// The id of the map of backends in the directory of a layout.
pub fn backends_map(layout: &Path) -> Result<u32, DataplaneError> {
    let map = open(layout, maps::BACKENDS)?;
    let info = map.info().map_err(|error| DataplaneError::map(maps::BACKENDS, "read", error))?;
    Ok(info.id())
}

/// Reads all counts in the directory of a layout; `None` if that layout does not say where they are (0.1). What is not closed
/// counts as untracked: no program will see its end.
pub fn read(layout: &Path) -> Result<Option<ReplacedCounts>, DataplaneError> {
    if !path(layout, maps::COUNTS_FORMAT).exists() {
        return Ok(None);
    }
    let Some(format) = counts_format::read(&open(layout, maps::COUNTS_FORMAT)?)? else {
        return Ok(None);
    };
    let mut reader = Reader { layout, format, by_id: HashMap::new() };
    reader.read_backends()?;
    reader.read_counts()?;
    let sources = reader.read_carried()?;
    let mut by_service: BTreeMap<ServiceKey, CarriedCounts> = BTreeMap::new();
    for (id, key) in reader.names()? {
        if let Some(mut counts) = reader.by_id.remove(&id)
            && !is_probe(&key.service)
        {
            counts.stats.of_removed.0.iter_mut().for_each(end_what_is_open);
            by_service.insert(key, counts);
        }
    }
    Ok(Some(ReplacedCounts { by_service, sources }))
}

fn end_what_is_open(counts: &mut ConnectionCounts) {
    counts.untracked = counts.opened.wrapping_sub(counts.closed);
}

fn path(layout: &Path, map: &str) -> PathBuf {
    layout.join("maps").join(map)
}

fn open(layout: &Path, name: &'static str) -> Result<MapData, DataplaneError> {
    let opened = MapData::from_pin(path(layout, name));
    opened.map_err(|error| DataplaneError::map(name, "open", error))
}

struct Reader<'a> {
    layout: &'a Path,
    format: CountsFormat,
    by_id: HashMap<ServiceId, CarriedCounts>,
}

impl Reader<'_> {
    /// Calls `each` with the counts of a service, and a record of this type that adds to them.
    fn for_each(
        &mut self,
        name: &'static str,
        record: &str,
        each: impl Fn(&mut CarriedCounts, Record<'_>),
    ) -> Result<(), DataplaneError> {
        let map = open(self.layout, name)?;
        let Self { format, by_id, .. } = self;
        Ok(untyped::for_each(name, &map, |id, bytes| {
            let Ok(id) = id.try_into().map(u32::from_ne_bytes) else { return };
            let counts = by_id.entry(ServiceId(id)).or_insert(CarriedCounts::NONE);
            each(counts, format.record(record, bytes));
        })?)
    }

    fn read_backends(&mut self) -> Result<(), DataplaneError> {
        let inner = self.layout.join("maps").join(INNER);
        let array = ArrayOfMaps::open(maps::BACKENDS, &path(self.layout, maps::BACKENDS), inner)?;
        for (_, segment) in array.all()? {
            let Self { format, by_id, .. } = self;
            untyped::for_each(maps::BACKENDS, &segment, |_, bytes| {
                let backend = format.record("Backend", bytes);
                let counts = connections(backend.record("counts", "ConnectionCounts"));
                if counts != ConnectionCounts::NONE {
                    let service = ServiceId(backend.number("service") as u32);
                    let all = by_id.entry(service).or_insert(CarriedCounts::NONE);
                    all.stats.of_removed.of_byte(backend.class("class").byte()).add(&counts);
                }
            })?;
        }
        Ok(())
    }

    fn read_counts(&mut self) -> Result<(), DataplaneError> {
        self.for_each(maps::REMOVED_BACKENDS, "RemovedBackends", |counts, removed| {
            add_by_class(&mut counts.stats, removed, "counts");
        })?;
        self.for_each(maps::SERVICE_STATS, "ServiceStats", |counts, stats| {
            counts.stats.add(&service_stats(stats));
        })?;
        self.for_each(maps::SERVICE_COUNTERS, "ServiceCounters", |counts, calls| {
            counts.calls.add(&service_counters(calls));
        })
    }

    /// What this layout itself had carried over. Returns where from.
    fn read_carried(&mut self) -> Result<[u32; CARRIED_SOURCES], DataplaneError> {
        self.for_each(maps::CARRIED_COUNTS, "CarriedCounts", |counts, carried| {
            counts.stats.add(&service_stats(carried.record("stats", "ServiceStats")));
            counts.calls.add(&service_counters(carried.record("calls", "ServiceCounters")));
            counts.sources = carried.numbers("sources", size_of::<u32>()).map(|id| id as u32);
        })?;
        let all = self.by_id.get(&ServiceId::NONE);
        Ok(all.map_or(CarriedCounts::NONE.sources, |entry| entry.sources))
    }

    fn names(&self) -> Result<HashMap<ServiceId, ServiceKey>, DataplaneError> {
        let mut chunks: HashMap<_, Vec<(u32, Vec<u8>)>> = HashMap::new();
        let map = open(self.layout, maps::SERVICE_NAMES)?;
        untyped::for_each(maps::SERVICE_NAMES, &map, |key, chunk| {
            let key = self.format.record("NameKey", key);
            let id = ServiceId(key.number("service") as u32);
            chunks.entry(id).or_default().push((key.number("chunk") as u32, chunk.to_vec()));
        })?;
        Ok(service_names::decode_all(chunks))
    }
}

fn connections(record: Record<'_>) -> ConnectionCounts {
    ConnectionCounts {
        opened: record.number("opened"),
        closed: record.number("closed"),
        sent: record.number("sent"),
        received: record.number("received"),
        untracked: record.number("untracked"),
        retransmitted: record.number("retransmitted"),
        unanswered: record.number("unanswered"),
        failed: record.numbers("failed", size_of::<u64>()),
    }
}

fn add_by_class(stats: &mut ServiceStats, record: Record<'_>, field: &str) {
    for (class, counts) in record.by_class(field, "ConnectionCounts") {
        stats.of_removed.of_byte(class.byte()).add(&connections(counts));
    }
}

fn service_stats(record: Record<'_>) -> ServiceStats {
    let mut stats = ServiceStats::NONE;
    stats.closed = record.numbers("closed", size_of::<u64>());
    stats.round_trips = histogram(record.record("round_trips", "RoundTrips"));
    stats.lifetimes = histogram(record.record("lifetimes", "Lifetimes"));
    add_by_class(&mut stats, record, "of_removed");
    stats
}

fn histogram<const BUCKETS: usize>(record: Record<'_>) -> Histogram<BUCKETS> {
    Histogram { sum: record.number("sum"), buckets: record.numbers("buckets", size_of::<u64>()) }
}

fn service_counters(record: Record<'_>) -> ServiceCounters {
    ServiceCounters {
        refused: record.numbers("refused", size_of::<u64>()),
        bypassed: record.number("bypassed"),
        failed_open: record.number("failed_open"),
        bypassed_stale: record.number("bypassed_stale"),
    }
}
