//! The agent's record of itself in a map, see [`sockline_ebpf::agent`].

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aya::maps::{Array, MapData};
use sockline_ebpf::agent::{AgentRecord as Layout, FeatureSet};

use super::AGENT_RECORD;
use crate::dataplane::{error::DataplaneError, maps, pinning::layout::Pins};

/// The record of the running agent.
pub struct RecordWriter {
    map: Array<MapData, Layout>,
    value: Layout,
}

/// The record of an agent, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRecord {
    pub node: String,
    pub version: String,
    pub cgroup: PathBuf,
    pub pid: u32,
    pub features: FeatureSet,
    pub started: SystemTime,
    pub last_sync: Option<SystemTime>,
}

impl RecordWriter {
    /// Writes the record of this process.
    pub fn create(
        pins: &Pins,
        node: &str,
        cgroup: &Path,
        features: FeatureSet,
    ) -> Result<Self, DataplaneError> {
        let map = maps::open_agent(pins)?;
        let last_sync = map.get(&0, 0).map_or(0, |before| before.last_sync);
        let value = Layout {
            started: since_epoch(SystemTime::now()).as_secs(),
            last_sync,
            pid: std::process::id(),
            features,
            node: text(node),
            version: text(env!("CARGO_PKG_VERSION")),
            cgroup: text(&cgroup.to_string_lossy()),
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
        self.map
            .set(0, self.value, 0)
            .map_err(|error| DataplaneError::map(AGENT_RECORD, "write", error))
    }

    pub fn read(pins: &Pins) -> Result<AgentRecord, DataplaneError> {
        let map = maps::open_agent(pins)?;
        let value =
            map.get(&0, 0).map_err(|error| DataplaneError::map(AGENT_RECORD, "read", error))?;
        Ok(AgentRecord {
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

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Truncates a text to fit, at the end of a character.
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
