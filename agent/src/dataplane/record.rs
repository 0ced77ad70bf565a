//! What the agent notes about itself in the kernel: see [`sockline_ebpf::agent`].

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aya::maps::{Array, MapData};
use aya_obj::generated::bpf_map_type;
use sockline_ebpf::{agent::AgentRecord, name};

use super::{
    Options,
    error::DataplaneError,
    features::Features,
    maps::{self, AGENT, NAMES, RETIRED},
    pins::Pins,
};

/// The record of the running agent.
pub struct Record {
    map: Array<MapData, AgentRecord>,
    value: AgentRecord,
}

/// The record of an agent, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub node: String,
    pub version: String,
    pub cgroup: PathBuf,
    pub pid: u32,
    pub features: u32,
    pub started: SystemTime,
    pub last_sync: Option<SystemTime>,
}

impl Record {
    /// Makes the agent's own maps if they are not there yet, and notes who runs now.
    pub fn create(
        pins: &Pins,
        options: &Options,
        features: Features,
    ) -> Result<Self, DataplaneError> {
        use bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH};
        ensure(pins, AGENT, BPF_MAP_TYPE_ARRAY, (4, size_of::<AgentRecord>()), 1, 0)?;
        let chunk = (size_of::<name::NameKey>(), name::CHUNK);
        let flags = sockline_ebpf::NO_PREALLOC;
        ensure(pins, NAMES, BPF_MAP_TYPE_HASH, chunk, name::NAME_ENTRIES, flags)?;
        let retired = (size_of::<u32>(), size_of::<u64>());
        ensure(pins, RETIRED, BPF_MAP_TYPE_HASH, retired, name::NAME_ENTRIES, flags)?;
        let map = maps::open_agent(pins)?;
        let last_sync = map.get(&0, 0).map_or(0, |before| before.last_sync);
        let value = AgentRecord {
            started: since_epoch(SystemTime::now()).as_secs(),
            last_sync,
            pid: std::process::id(),
            features: features.bits(),
            node: text(&options.node),
            version: text(env!("CARGO_PKG_VERSION")),
            cgroup: text(&options.cgroup.to_string_lossy()),
        };
        let mut this = Self { map, value };
        this.write()?;
        Ok(this)
    }

    pub fn synced(&mut self, at: SystemTime) -> Result<(), DataplaneError> {
        self.value.last_sync = u64::try_from(since_epoch(at).as_nanos()).unwrap_or(u64::MAX);
        self.write()
    }

    fn write(&mut self) -> Result<(), DataplaneError> {
        self.map.set(0, self.value, 0).map_err(|error| DataplaneError::map(AGENT, "write", error))
    }

    pub fn read(pins: &Pins) -> Result<Read, DataplaneError> {
        let map = maps::open_agent(pins)?;
        let value = map.get(&0, 0).map_err(|error| DataplaneError::map(AGENT, "read", error))?;
        Ok(Read {
            node: string(&value.node),
            version: string(&value.version),
            cgroup: string(&value.cgroup).into(),
            pid: value.pid,
            features: value.features,
            started: UNIX_EPOCH + Duration::from_secs(value.started),
            last_sync: (value.last_sync != 0)
                .then(|| UNIX_EPOCH + Duration::from_nanos(value.last_sync)),
        })
    }
}

fn ensure(
    pins: &Pins,
    name: &'static str,
    kind: bpf_map_type,
    (key, value): (usize, usize),
    entries: u32,
    flags: usize,
) -> Result<(), DataplaneError> {
    let path = pins.map(name);
    if path.exists() {
        return Ok(());
    }
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let definition =
        aya_obj::Map::new_from_params(kind as u32, size(key), size(value), entries, size(flags));
    let map = MapData::create(definition, name, None)
        .map_err(|error| DataplaneError::map(name, "create", error))?;
    super::sys::pin(std::os::fd::AsFd::as_fd(map.fd()), &path)
        .map_err(|error| DataplaneError::io(format!("pin map `{name}`"), error))
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Cuts a text to fit, at a character's end.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut length = text.len().min(N);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

fn string(bytes: &[u8]) -> String {
    let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
