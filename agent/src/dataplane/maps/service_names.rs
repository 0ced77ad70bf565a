//! Service names in the kernel: see [`sockline_ebpf::name`].

use std::collections::HashMap as StdHashMap;

use aya::maps::{HashMap, MapData, MapError};
use sockline_ebpf::{
    id::ServiceId,
    name::{CHUNK, NameKey},
};

use super::SERVICE_NAMES;
use crate::{
    bpf::kinds::{growable_hash::GrowableHash, hash},
    dataplane::{error::DataplaneError, pinning::layout::Pins},
    model::object::{ObjectName, Protocol},
};

/// The names, as the agent writes them.
pub type Names = GrowableHash<NameKey, [u8; CHUNK]>;

/// Chunks of the longest name that the Kubernetes API allows: two DNS labels, a port's name and a
/// protocol, with the bytes between them.
const LONGEST: u32 = (63usize + 63 + 15 + 4 + 3).div_ceil(CHUNK) as u32;

/// Opens the names. There is room for those of as many service ports as there may be frontends.
pub fn open(pins: &Pins, max_frontends: u32) -> Result<Names, DataplaneError> {
    Ok(GrowableHash::open(
        SERVICE_NAMES,
        pins.map(SERVICE_NAMES),
        max_frontends.saturating_mul(LONGEST),
    )?)
}

/// One port of a service: what has a service id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub service: ObjectName,
    pub port_name: std::sync::Arc<str>,
    pub protocol: Protocol,
}

impl std::fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.port_name.is_empty() {
            write!(f, ":{}", self.port_name)?;
        }
        write!(f, "/{}", self.protocol)
    }
}

impl ServiceKey {
    fn encode(&self) -> Vec<[u8; CHUNK]> {
        let text = format!(
            "{}\0{}\0{}\0{}",
            self.service.namespace, self.service.name, self.port_name, self.protocol
        );
        text.as_bytes()
            .chunks(CHUNK)
            .map(|part| {
                let mut chunk = [0; CHUNK];
                chunk[..part.len()].copy_from_slice(part);
                chunk
            })
            .collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
        let mut parts = text.split('\0');
        let (namespace, name, port_name) = (parts.next()?, parts.next()?, parts.next()?);
        let protocol = match parts.next()? {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return None,
        };
        Some(Self {
            service: ObjectName::new(namespace, name),
            port_name: port_name.into(),
            protocol,
        })
    }
}

/// Writes a name; all of it, or nothing.
pub fn write(
    names: &mut Names,
    service: ServiceId,
    key: &ServiceKey,
) -> Result<(), DataplaneError> {
    for (chunk, number) in key.encode().iter().zip(0..) {
        if let Err(error) = names.insert(&NameKey { service, chunk: number }, chunk) {
            remove(names, service, key);
            return Err(error.into());
        }
    }
    Ok(())
}

/// Whether a name is there as it was written.
pub fn is_written(
    names: &Names,
    service: ServiceId,
    key: &ServiceKey,
) -> Result<bool, DataplaneError> {
    for (chunk, number) in key.encode().iter().zip(0..) {
        if names.get(&NameKey { service, chunk: number })? != Some(*chunk) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes a name, as far as it is there.
pub fn remove(names: &mut Names, service: ServiceId, key: &ServiceKey) {
    for chunk in 0..key.encode().len() {
        let chunk = u32::try_from(chunk).unwrap_or(u32::MAX);
        names.remove(&NameKey { service, chunk });
    }
}

/// The name of one service port; `None` if it has none, or it is just being written.
pub fn read(
    names: &HashMap<MapData, NameKey, [u8; CHUNK]>,
    service: ServiceId,
) -> Result<Option<ServiceKey>, DataplaneError> {
    let mut bytes = Vec::new();
    for chunk in 0.. {
        match names.get(&NameKey { service, chunk }, 0) {
            Ok(part) => bytes.extend(part),
            Err(MapError::KeyNotFound) => break,
            Err(error) => return Err(DataplaneError::map(SERVICE_NAMES, "read", error)),
        }
    }
    Ok(ServiceKey::decode(&bytes))
}

/// All names. Entries that make no name are skipped.
pub fn read_all(
    names: &HashMap<MapData, NameKey, [u8; CHUNK]>,
) -> Result<StdHashMap<ServiceId, ServiceKey>, DataplaneError> {
    let mut chunks: StdHashMap<ServiceId, Vec<(u32, [u8; CHUNK])>> = StdHashMap::new();
    hash::for_each(SERVICE_NAMES, names, |&NameKey { service, chunk }, bytes: &[[u8; CHUNK]]| {
        chunks.entry(service).or_default().extend(bytes.iter().map(|bytes| (chunk, *bytes)));
    })?;
    Ok(decode_all(chunks))
}

/// Names of their numbered chunks.
pub fn decode_all(
    chunks: StdHashMap<ServiceId, Vec<(u32, impl IntoIterator<Item = u8>)>>,
) -> StdHashMap<ServiceId, ServiceKey> {
    let names = chunks.into_iter().filter_map(|(service, mut chunks)| {
        chunks.sort_unstable_by_key(|&(number, _)| number);
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|(_, bytes)| bytes).collect();
        Some((service, ServiceKey::decode(&bytes)?))
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_survive_the_round_trip() {
        for (namespace, name, port) in [
            ("a", "b", ""),
            ("n".repeat(63).as_str(), "s".repeat(253).as_str(), "p".repeat(63).as_str()),
        ] {
            let key = ServiceKey {
                service: ObjectName::new(namespace, name),
                port_name: port.into(),
                protocol: Protocol::Udp,
            };
            assert_eq!(ServiceKey::decode(&key.encode().concat()), Some(key));
        }
    }
}
