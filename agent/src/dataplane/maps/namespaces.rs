//! The network namespaces that called services, as the programs recorded them.

use aya::maps::{HashMap, MapData};
use sockline_ebpf::namespaces::Namespace;

use super::NETWORK_NAMESPACES;
use crate::{
    bpf::kinds::hash,
    dataplane::{error::DataplaneError, maps, pinning::layout::Pins},
};

/// The map, for any thread.
pub struct NetworkNamespaces {
    map: HashMap<MapData, u64, Namespace>,
}

impl NetworkNamespaces {
    pub(crate) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self { map: maps::open_namespaces(pins)? })
    }

    /// All recorded namespaces, by their cookies.
    pub fn read(&self) -> Result<Vec<(u64, Namespace)>, DataplaneError> {
        let mut all = Vec::new();
        hash::for_each(NETWORK_NAMESPACES, &self.map, |&cookie, values: &[Namespace]| {
            all.extend(values.iter().map(|value| (cookie, *value)));
        })?;
        Ok(all)
    }

    /// Writes whether a namespace is excluded. Does nothing if the entry was evicted meanwhile.
    pub fn set_excluded(
        &mut self,
        cookie: u64,
        recorded: Namespace,
        excluded: u64,
    ) -> Result<(), DataplaneError> {
        const BPF_EXIST: u64 = 2;
        let value = Namespace { excluded, ..recorded };
        match self.map.insert(cookie, value, BPF_EXIST) {
            Err(error) if error_is_missing(&error) => Ok(()),
            result => {
                result.map_err(|error| DataplaneError::map(NETWORK_NAMESPACES, "write", error))
            }
        }
    }
}

fn error_is_missing(error: &aya::maps::MapError) -> bool {
    use aya::maps::MapError;
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
