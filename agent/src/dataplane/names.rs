//! Service names in the kernel: see [`sockline_ebpf::name`].

use std::collections::HashMap;

use aya::maps::MapError;
use sockline_ebpf::name::{CHUNK, NAME_ENTRIES, NameKey};

use super::{
    error::DataplaneError,
    maps::{NAMES, Names},
};
use crate::model::object::{ObjectName, Protocol};

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
pub fn write(names: &mut Names, service: u32, key: &ServiceKey) -> Result<(), DataplaneError> {
    for (chunk, number) in key.encode().iter().zip(0..) {
        if let Err(error) = names.insert(NameKey { service, chunk: number }, chunk, 0) {
            remove(names, service, key);
            return Err(DataplaneError::write(NAMES, NAME_ENTRIES, error));
        }
    }
    Ok(())
}

/// Whether a name is there as it was written.
pub fn is_written(names: &Names, service: u32, key: &ServiceKey) -> Result<bool, DataplaneError> {
    for (chunk, number) in key.encode().iter().zip(0..) {
        match names.get(&NameKey { service, chunk: number }, 0) {
            Ok(found) if found == *chunk => {}
            Ok(_) | Err(MapError::KeyNotFound) => return Ok(false),
            Err(error) => return Err(DataplaneError::map(NAMES, "read", error)),
        }
    }
    Ok(true)
}

/// Removes a name, as far as it is there.
pub fn remove(names: &mut Names, service: u32, key: &ServiceKey) {
    for chunk in 0..key.encode().len() {
        let chunk = u32::try_from(chunk).unwrap_or(u32::MAX);
        let _ = names.remove(&NameKey { service, chunk });
    }
}

/// All names. Entries that make no name are left out.
pub fn read_all(names: &Names) -> Result<HashMap<u32, ServiceKey>, DataplaneError> {
    let mut chunks: HashMap<u32, Vec<(u32, [u8; CHUNK])>> = HashMap::new();
    for entry in names.iter() {
        let (NameKey { service, chunk }, bytes) =
            entry.map_err(|error| DataplaneError::map(NAMES, "read", error))?;
        chunks.entry(service).or_default().push((chunk, bytes));
    }
    Ok(chunks
        .into_iter()
        .filter_map(|(service, mut chunks)| {
            chunks.sort_unstable_by_key(|&(number, _)| number);
            let bytes: Vec<u8> = chunks.into_iter().flat_map(|(_, bytes)| bytes).collect();
            Some((service, ServiceKey::decode(&bytes)?))
        })
        .collect())
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
