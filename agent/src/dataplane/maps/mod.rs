//! The pinned maps: their names, opening them with their types, and what is in them.
//!
//! Called by `reconcile`, which writes, and by `observe`, which reads. One file or folder for each subject:
//!
//! - [`frontends`]: service address → service, slots, action; and the bitmap in front of it.
//! - [`allocator`]: ids of services and backends, ranges of slots, and when they may be used again.
//! - [`service_names`]: service id → name of the service port.
//! - [`counts_format`]: where counts are in the records, for agents of other layouts.
//! - [`exclusion`]: cgroups of excluded pods.
//! - [`agent_state`], [`agent_record`]: what the programs, and other commands, know of the agent.
//! - [`debug_log`]: which calls the programs log.
//! - [`affinity_gc`]: removes expired session affinities. [`client_gc`]: removes clients of services that are gone.
//! - [`lru`]: maps whose size an option sets.
//! - [`namespaces`]: network namespaces that called services.
//! - [`socket_table`]: records of sockets. [`partly_counted`]: counts connections while they are open.
//!
//! Invariant: only the agent that holds the lock writes, beside programs; programs see each entry change in one step.

pub mod affinity_gc;
pub mod agent_record;
pub mod agent_state;
pub mod allocator;
pub mod client_gc;
pub mod counts_format;
pub mod debug_log;
pub mod exclusion;
pub mod frontends;
mod lru;
pub mod namespaces;
pub mod partly_counted;
pub mod service_names;
pub mod socket_table;

use std::{os::fd::AsFd as _, path::Path};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf},
};
use sockline_ebpf::{
    agent::AgentRecord,
    agent_state::AgentState,
    backend::{BACKEND_SEGMENT, BACKEND_SEGMENTS, Backend, SLOT_SEGMENT, SLOT_SEGMENTS, Slot},
    carried::CarriedCounts,
    client::{ClientCounts, ClientKey},
    counters::ServiceCounters,
    debug_log::DebugLog,
    event::EventCounts,
    filter,
    frontend::{CURRENT, FIRST_CAPACITY, Frontend, FrontendKey},
    id::ServiceId,
    name::{CHUNK, FIRST_NAMES, NameKey},
    namespaces::Namespace,
    socket::{Affinity, AffinityKey, HOST, OverflowCount, OverflowEntry, SOCKET_SETS, SocketSet},
    telemetry::{RemovedBackends, ServiceStats},
};

use crate::{
    bpf::{
        error::BpfError,
        kinds::{
            array_of_maps::{self, ArrayOfMaps},
            create,
            segmented_array::{SegmentedArray, new_segment},
        },
        mmap::{Access, SharedArray},
    },
    dataplane::{error::DataplaneError, pinning::layout::Pins},
};

/// The maps that the programs and the agent share, by the names of their definitions.
pub const PINNED: [&str; 24] = [
    FILTER,
    FRONTENDS,
    SLOTS,
    BACKENDS,
    SOCKETS,
    UDP_STORAGE,
    TCP_STORAGE,
    OVERFLOW,
    OVERFLOW_COUNTS,
    AFFINITY,
    SERVICE_COUNTERS,
    SERVICE_STATS,
    PARTLY_COUNTED,
    CLIENTS,
    CLIENT_TOTALS,
    FAULTS,
    LOGS,
    EXCLUDED,
    EXCLUDED_LEVELS,
    AGENT_STATE,
    DEBUG_LOG,
    NETWORK_NAMESPACES,
    EVENTS,
    EVENT_COUNTS,
];
pub const FILTER: &str = "FILTER";
pub const FRONTENDS: &str = "FRONTENDS";
pub const SLOTS: &str = "SLOTS";
pub const BACKENDS: &str = "BACKENDS";
pub const SOCKETS: &str = "SOCKETS";
pub const UDP_STORAGE: &str = "UDP_STORAGE";
pub const TCP_STORAGE: &str = "TCP_STORAGE";
pub const OVERFLOW: &str = "OVERFLOW";
pub const OVERFLOW_COUNTS: &str = "OVERFLOW_COUNTS";
pub const AFFINITY: &str = "AFFINITY";
pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
pub const SERVICE_STATS: &str = "SERVICE_STATS";
pub const PARTLY_COUNTED: &str = "PARTLY_COUNTED";
pub const CLIENTS: &str = "CLIENTS";
pub const CLIENT_TOTALS: &str = "CLIENT_TOTALS";
pub const FAULTS: &str = "FAULTS";
pub const LOGS: &str = "AYA_LOGS";
pub const EXCLUDED: &str = "EXCLUDED";
pub const EXCLUDED_LEVELS: &str = "EXCLUDED_LEVELS";
pub const AGENT_STATE: &str = "AGENT_STATE";
pub const DEBUG_LOG: &str = "DEBUG_LOG";
pub const NETWORK_NAMESPACES: &str = "NETWORK_NAMESPACES";
pub const EVENTS: &str = "EVENTS";
pub const EVENT_COUNTS: &str = "EVENT_COUNTS";
/// These are the agent's own: no program reads them.
pub const SERVICE_NAMES: &str = "SERVICE_NAMES";
pub const AGENT_RECORD: &str = "AGENT_RECORD";
pub const REMOVED_BACKENDS: &str = "REMOVED_BACKENDS";
pub const CARRIED_COUNTS: &str = "CARRIED_COUNTS";
pub const COUNTS_FORMAT: &str = "COUNTS_FORMAT";

/// Maps that are replaced by larger ones as they grow. The code that grows them updates their pins.
pub const GROWABLE: [&str; 3] = [SERVICE_NAMES, REMOVED_BACKENDS, CARRIED_COUNTS];
/// Maps that no program reads.
const AGENTS_OWN: [&str; 5] =
    [SERVICE_NAMES, AGENT_RECORD, REMOVED_BACKENDS, CARRIED_COUNTS, COUNTS_FORMAT];

/// All maps that are pinned.
pub fn map_names() -> Vec<&'static str> {
    PINNED.into_iter().chain(AGENTS_OWN).collect()
}

pub type FrontendsHash = HashMap<MapData, FrontendKey, Frontend>;
/// Client and service → backend.
pub type AffinityHash = HashMap<MapData, AffinityKey, Affinity>;
/// Client and service → how their connections ended.
pub type ClientHash = HashMap<MapData, ClientKey, ClientCounts>;

/// Entries that `REMOVED_BACKENDS` has room for at first.
const FIRST_REMOVED_BACKENDS: u32 = 1024;
/// As many entries `CARRIED_COUNTS` has room for until counts of another layout are carried over.
const FIRST_CARRIED_COUNTS: u32 = 1;

/// How many entries the maps have that an option sets the size of.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub affinity: u32,
    pub clients: u32,
}

/// Makes and pins what aya does not make: the maps that hold other maps, those whose size is an
/// option, and the agent's own.
pub fn create(pins: &Pins, sizes: Sizes) -> Result<(), DataplaneError> {
    create::ensure_array_of_maps(&pins.map(FRONTENDS), FRONTENDS, CURRENT + 1, || {
        new_frontends(FIRST_CAPACITY)
    })?;
    let slots = || new_segment::<Slot>(SLOTS, SLOT_SEGMENT);
    create::ensure_array_of_maps(&pins.map(SLOTS), SLOTS, SLOT_SEGMENTS, slots)?;
    let backends = || new_segment::<Backend>(BACKENDS, BACKEND_SEGMENT);
    create::ensure_array_of_maps(&pins.map(BACKENDS), BACKENDS, BACKEND_SEGMENTS, backends)?;
    let arrays =
        [FRONTENDS, SLOTS, BACKENDS].map(|name| open_array_of_maps(pins, name, Access::Read));
    let arrays = arrays.into_iter().collect::<Result<Vec<_>, _>>()?;
    array_of_maps::remove_stale(&pins.inner_maps(), &arrays)?;
    create::ensure(&pins.map(AGENT_RECORD), AGENT_RECORD, || {
        create::array::<AgentRecord>(AGENT_RECORD, 1, 0)
    })?;
    create::ensure(&pins.map(SERVICE_NAMES), SERVICE_NAMES, || {
        create::hash::<NameKey, [u8; CHUNK]>(SERVICE_NAMES, FIRST_NAMES)
    })?;
    create::ensure(&pins.map(REMOVED_BACKENDS), REMOVED_BACKENDS, || {
        create::hash::<ServiceId, RemovedBackends>(REMOVED_BACKENDS, FIRST_REMOVED_BACKENDS)
    })?;
    create::ensure(&pins.map(CARRIED_COUNTS), CARRIED_COUNTS, || {
        create::hash::<ServiceId, CarriedCounts>(CARRIED_COUNTS, FIRST_CARRIED_COUNTS)
    })?;
    create::ensure(&pins.map(COUNTS_FORMAT), COUNTS_FORMAT, || {
        create::array::<counts_format::Text>(COUNTS_FORMAT, 1, 0)
    })?;
    counts_format::write(pins)?;
    lru::ensure::<AffinityKey, Affinity>(pins, AFFINITY, sizes.affinity)?;
    let clients = sizes.clients.saturating_add(lru::reserve()?);
    lru::ensure::<ClientKey, ClientCounts>(pins, CLIENTS, clients)
}

/// An inner map of [`FRONTENDS`].
pub fn new_frontends(capacity: u32) -> Result<MapData, BpfError> {
    create::hash::<FrontendKey, Frontend>(FRONTENDS, capacity)
}

pub fn open_frontends(pins: &Pins, access: Access) -> Result<ArrayOfMaps, DataplaneError> {
    open_array_of_maps(pins, FRONTENDS, access)
}

fn open_array_of_maps(
    pins: &Pins,
    name: &'static str,
    access: Access,
) -> Result<ArrayOfMaps, DataplaneError> {
    let (path, inner) = (pins.map(name), pins.inner_maps());
    let opened = if access == Access::Write {
        ArrayOfMaps::open_to_write(name, &path, inner)
    } else {
        ArrayOfMaps::open(name, &path, inner)
    };
    Ok(opened?)
}

/// The frontends hash that the programs use now; `None` before the first sync.
pub fn current_frontends(array: &ArrayOfMaps) -> Result<Option<FrontendsHash>, DataplaneError> {
    array.get(CURRENT)?.map(|inner| typed(FRONTENDS, Map::HashMap(inner))).transpose()
}

pub fn open_slots(
    pins: &Pins,
    limit: u32,
    access: Access,
) -> Result<SegmentedArray<Slot>, DataplaneError> {
    let array = open_array_of_maps(pins, SLOTS, access)?;
    Ok(SegmentedArray::open(SLOTS, array, SLOT_SEGMENT, limit, access)?)
}

pub fn open_backends(
    pins: &Pins,
    limit: u32,
    access: Access,
) -> Result<SegmentedArray<Backend>, DataplaneError> {
    let array = open_array_of_maps(pins, BACKENDS, access)?;
    Ok(SegmentedArray::open(BACKENDS, array, BACKEND_SEGMENT, limit, access)?)
}

pub fn open_filter(pins: &Pins) -> Result<SharedArray<u64>, DataplaneError> {
    shared(pins, FILTER, filter::WORDS, Access::Write)
}

/// The words of the one [`AgentState`].
pub fn open_agent_state(pins: &Pins, access: Access) -> Result<SharedArray<u64>, DataplaneError> {
    let words = size_of::<AgentState>() / size_of::<u64>();
    shared(pins, AGENT_STATE, u32::try_from(words).unwrap_or(u32::MAX), access)
}

/// The words of the one [`DebugLog`].
pub fn open_debug_log(pins: &Pins) -> Result<SharedArray<u64>, DataplaneError> {
    let words = size_of::<DebugLog>() / size_of::<u64>();
    shared(pins, DEBUG_LOG, u32::try_from(words).unwrap_or(u32::MAX), Access::Write)
}

pub fn open_sockets(pins: &Pins, access: Access) -> Result<SharedArray<SocketSet>, DataplaneError> {
    shared(pins, SOCKETS, SOCKET_SETS, access)
}

/// What sockets have beyond the table, by their cookies.
pub type OverflowHash = HashMap<MapData, u64, OverflowEntry>;

pub fn open_overflow(pins: &Pins) -> Result<OverflowHash, DataplaneError> {
    typed(OVERFLOW, Map::HashMap(open(pins, OVERFLOW)?))
}

/// Places of [`OVERFLOW_COUNTS`].
pub const OVERFLOW_PLACES: u32 = HOST + 1;

/// Its words: programs change each for itself.
pub fn open_overflow_counts(pins: &Pins) -> Result<SharedArray<u64>, DataplaneError> {
    let words = (size_of::<OverflowCount>() / size_of::<u64>()) as u32;
    shared(pins, OVERFLOW_COUNTS, OVERFLOW_PLACES * words, Access::Write)
}

pub fn open_service_counters(
    pins: &Pins,
) -> Result<PerCpuHashMap<MapData, ServiceId, ServiceCounters>, DataplaneError> {
    typed(SERVICE_COUNTERS, Map::PerCpuHashMap(open(pins, SERVICE_COUNTERS)?))
}

pub fn open_service_stats(
    pins: &Pins,
) -> Result<PerCpuHashMap<MapData, ServiceId, ServiceStats>, DataplaneError> {
    typed(SERVICE_STATS, Map::PerCpuHashMap(open(pins, SERVICE_STATS)?))
}

pub fn open_clients(pins: &Pins) -> Result<ClientHash, DataplaneError> {
    typed(CLIENTS, Map::LruHashMap(open(pins, CLIENTS)?))
}

/// The word of the one [`sockline_ebpf::client::ClientTotals`].
pub fn open_client_totals(pins: &Pins, access: Access) -> Result<SharedArray<u64>, DataplaneError> {
    shared(pins, CLIENT_TOTALS, 1, access)
}

pub fn open_faults(pins: &Pins) -> Result<PerCpuArray<MapData, u64>, DataplaneError> {
    typed(FAULTS, Map::PerCpuArray(open(pins, FAULTS)?))
}

/// To be read by one process at a time.
pub fn open_events(pins: &Pins) -> Result<RingBuf<MapData>, DataplaneError> {
    typed(EVENTS, Map::RingBuf(open(pins, EVENTS)?))
}

pub fn open_event_counts(pins: &Pins) -> Result<PerCpuArray<MapData, EventCounts>, DataplaneError> {
    typed(EVENT_COUNTS, Map::PerCpuArray(open(pins, EVENT_COUNTS)?))
}

/// To be read; opened each time, because the agent may have put a larger one in its place.
pub fn open_names(pins: &Pins) -> Result<HashMap<MapData, NameKey, [u8; CHUNK]>, DataplaneError> {
    typed(SERVICE_NAMES, Map::HashMap(open(pins, SERVICE_NAMES)?))
}

/// As [`open_names`].
pub fn open_removed_backends(
    pins: &Pins,
) -> Result<HashMap<MapData, ServiceId, RemovedBackends>, DataplaneError> {
    typed(REMOVED_BACKENDS, Map::HashMap(open(pins, REMOVED_BACKENDS)?))
}

/// As [`open_names`].
pub fn open_carried_counts(
    pins: &Pins,
) -> Result<HashMap<MapData, ServiceId, CarriedCounts>, DataplaneError> {
    typed(CARRIED_COUNTS, Map::HashMap(open(pins, CARRIED_COUNTS)?))
}

pub fn open_affinity(pins: &Pins) -> Result<AffinityHash, DataplaneError> {
    typed(AFFINITY, Map::LruHashMap(open(pins, AFFINITY)?))
}

pub fn open_excluded(pins: &Pins) -> Result<HashMap<MapData, u64, u32>, DataplaneError> {
    typed(EXCLUDED, Map::HashMap(open(pins, EXCLUDED)?))
}

pub fn open_excluded_levels(pins: &Pins) -> Result<Array<MapData, u32>, DataplaneError> {
    typed(EXCLUDED_LEVELS, Map::Array(open(pins, EXCLUDED_LEVELS)?))
}

pub fn open_namespaces(pins: &Pins) -> Result<HashMap<MapData, u64, Namespace>, DataplaneError> {
    typed(NETWORK_NAMESPACES, Map::LruHashMap(open(pins, NETWORK_NAMESPACES)?))
}

pub fn open_agent(pins: &Pins) -> Result<Array<MapData, AgentRecord>, DataplaneError> {
    typed(AGENT_RECORD, Map::Array(open(pins, AGENT_RECORD)?))
}

fn open(pins: &Pins, name: &'static str) -> Result<MapData, DataplaneError> {
    open_at(&pins.map(name), name)
}

fn open_at(path: &Path, name: &'static str) -> Result<MapData, DataplaneError> {
    MapData::from_pin(path).map_err(|error| DataplaneError::map(name, "open", error))
}

fn typed<M: TryFrom<Map, Error = MapError>>(
    name: &'static str,
    map: Map,
) -> Result<M, DataplaneError> {
    map.try_into().map_err(|error| DataplaneError::map(name, "open", error))
}

fn shared<T: Pod>(
    pins: &Pins,
    name: &'static str,
    len: u32,
    access: Access,
) -> Result<SharedArray<T>, DataplaneError> {
    let map = open(pins, name)?;
    SharedArray::map(map.fd().as_fd(), len as usize, access)
        .map_err(|error| DataplaneError::io(format!("map `{name}` into memory"), error))
}
