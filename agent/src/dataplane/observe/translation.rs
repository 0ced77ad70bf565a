//! What the programs made of the connect of one socket: its record.

use std::net::SocketAddr;

use aya::maps::MapError;
use sockline_ebpf::{agent::FeatureSet, socket::SocketRecord};

use super::snapshot::Snapshot;
use crate::dataplane::{
    error::DataplaneError,
    maps::{
        self,
        service_names::{self, ServiceKey},
        socket_table::SocketTable,
    },
};

/// A connect that was translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// The service port that the address belongs to; `None` if its name is gone.
    pub service: Option<ServiceKey>,
    /// The endpoint's address and port.
    pub endpoint: SocketAddr,
}

impl Snapshot {
    /// The translation of a socket that is still open; `None` if it was not translated, or its record is in socket
    /// storage.
    pub fn translation(&self, cookie: u64) -> Result<Option<Translation>, DataplaneError> {
        let Some(record) = self.record(cookie)? else { return Ok(None) };
        let names = service_names::read_all(&maps::open_names(self.pins())?)?;
        let port = u16::from_be(record.backend_port);
        Ok(Some(Translation {
            service: names.get(&record.service).cloned(),
            endpoint: SocketAddr::new(record.backend_address.into(), port),
        }))
    }

    fn record(&self, cookie: u64) -> Result<Option<SocketRecord>, DataplaneError> {
        // Before Linux 5.12 no program uses the table.
        if self.agent()?.features.contains(FeatureSet::COMPARE_AND_SWAP)
            && let Some(record) = SocketTable::open(self.pins())?.record(cookie)
        {
            return Ok(Some(record));
        }
        match maps::open_overflow(self.pins())?.get(&cookie, 0) {
            Ok(entry) => Ok((entry.owner == cookie).then_some(entry.record)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(DataplaneError::map(maps::OVERFLOW, "read", error)),
        }
    }
}
