//! Sockets whose backend is gone, as the programs' own records have them.
//!
//! What is told here follows from the maps as they are, and not from what happened to them: nothing
//! is lost when an agent ends between a change and its consequences.

use std::{collections::HashMap, net::IpAddr, os::fd::OwnedFd, sync::Arc};

use aya::maps::{MapData, PerCpuArray};
use sockline_ebpf::{
    backend::Backend,
    counters::STORED,
    frontend::{FrontendKey, TCP, UDP},
    socket::{CLAIMED, SocketRecord, SocketSet, WAYS},
};

use super::{
    Features,
    error::DataplaneError,
    maps,
    mirror::Mirror,
    names::ServiceKey,
    pins::Pins,
    segments::Segments,
    sys::{self, SharedArray},
};

/// The socket table, for reading.
#[derive(Clone)]
pub struct SocketTable {
    sets: Arc<SharedArray<SocketSet>>,
}

impl SocketTable {
    pub(super) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self { sets: Arc::new(maps::open_sockets(pins)?) })
    }

    /// Whether a socket's record is still what was read before.
    #[must_use]
    pub fn holds(&self, cookie: u64, record: &SocketRecord) -> bool {
        let set = usize::try_from(cookie).unwrap_or(0) % self.sets.len().max(1);
        let seen = self.sets.read(set);
        (0..WAYS).any(|way| seen.cookies[way] == cookie && seen.records[way] == *record)
    }

    fn records(&self) -> impl Iterator<Item = (u64, SocketRecord)> + '_ {
        (0..self.sets.len()).flat_map(|index| {
            let first = self.sets.read(index);
            let is_held = |cookie: &u64| !matches!(*cookie, 0 | CLAIMED);
            // The programs write meanwhile: what is the same twice, under the same cookie, is whole.
            let second = first.cookies.iter().any(is_held).then(|| self.sets.read(index));
            (0..WAYS).filter_map(move |way| {
                let cookie = first.cookies[way];
                let again = second?;
                let is_whole =
                    again.cookies[way] == cookie && again.records[way] == first.records[way];
                (is_held(&cookie) && is_whole).then_some((cookie, first.records[way]))
            })
        })
    }
}

/// A socket's record whose backend is not what it was: it ended, or its entry is another one's now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// Of the socket: no other one ever has it while the machine is up.
    pub cookie: u64,
    pub record: SocketRecord,
    /// As far as known: socket storage knows it.
    pub protocol: Option<u8>,
}

impl Orphan {
    /// The address and port that the socket asked for.
    #[must_use]
    pub fn service(&self) -> (IpAddr, u16) {
        (self.record.service_address.into(), u16::from_be(self.record.service_port))
    }

    /// The address and port that it got.
    #[must_use]
    pub fn backend(&self) -> (IpAddr, u16) {
        (self.record.backend_address.into(), u16::from_be(self.record.backend_port))
    }
}

/// Whose a service address is now, by protocol.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    pub tcp: Option<ServiceKey>,
    pub udp: Option<ServiceKey>,
}

/// What this module reads, kept open.
pub(super) struct Sockets {
    table: SocketTable,
    faults: PerCpuArray<MapData, u64>,
    /// No socket is in the table.
    storage_only: bool,
}

impl Sockets {
    pub(super) fn open(pins: &Pins, features: Features) -> Result<Self, DataplaneError> {
        Ok(Self {
            table: SocketTable::open(pins)?,
            faults: maps::open_faults(pins)?,
            storage_only: !features.compare_and_swap,
        })
    }

    pub(super) const fn table(&self) -> &SocketTable {
        &self.table
    }

    /// Whether any socket may have its records in socket storage.
    pub(super) fn may_be_stored(&self) -> Result<bool, DataplaneError> {
        if self.storage_only {
            return Ok(true);
        }
        let counts = self.faults.get(&STORED, 0);
        let counts = counts.map_err(|error| DataplaneError::map(maps::FAULTS, "read", error))?;
        Ok(counts.iter().any(|&count| count > 0))
    }

    pub(super) fn orphans(&self, mirror: &Mirror) -> Vec<Orphan> {
        self.table
            .records()
            .filter(|(_, record)| is_orphan(record, mirror.backend(record.backend)))
            .map(|(cookie, record)| Orphan { cookie, record, protocol: None })
            .collect()
    }
}

/// Whether a record's backend is not what it was when the socket got it.
fn is_orphan(record: &SocketRecord, backend: Option<Backend>) -> bool {
    backend.is_none_or(|backend| {
        backend.sets == 0
            || backend.generation != record.generation
            || backend.service != record.service
    })
}

/// The map that is socket storage.
///
/// # Errors
/// When it is not pinned.
pub fn storage(pins: &Pins) -> Result<OwnedFd, DataplaneError> {
    sys::open_pinned(&pins.map(maps::STORAGE))
        .map_err(|error| DataplaneError::io(format!("open the map {}", maps::STORAGE), error))
}

/// The backends, for whoever finds records elsewhere than in the table.
pub struct Backends(Segments<Backend>);

impl Backends {
    /// # Errors
    /// When they are not pinned.
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        maps::open_backends(pins, u32::MAX, false).map(Self)
    }

    #[must_use]
    pub fn is_orphan(&self, record: &SocketRecord) -> bool {
        is_orphan(record, self.0.read(record.backend))
    }
}

impl Mirror {
    /// Who has these service addresses now.
    pub(super) fn owners(
        &self,
        addresses: impl IntoIterator<Item = (IpAddr, u16)>,
    ) -> HashMap<(IpAddr, u16), Owners> {
        let services = self.keys_by_id();
        let owner = |address: IpAddr, port: u16, protocol: u8| {
            let address = sockline_ebpf::address::Address::from(address);
            // The programs look for all addresses of the local host at one.
            let address = address.as_loopback().unwrap_or(address);
            let key = FrontendKey { address, port: port.to_be(), protocol, padding: 0 };
            services.get(&self.owner_of(&key)?).map(|&key| key.clone())
        };
        addresses
            .into_iter()
            .map(|(address, port)| {
                let owners =
                    Owners { tcp: owner(address, port, TCP), udp: owner(address, port, UDP) };
                ((address, port), owners)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_an_orphan_once_its_backend_ends_or_is_another_one() {
        let record = SocketRecord { service: 3, backend: 7, generation: 2, ..Default::default() };
        let alive = Backend { service: 3, generation: 2, sets: 1, ..Backend::default() };
        assert!(!is_orphan(&record, Some(alive)));
        assert!(is_orphan(&record, Some(Backend { sets: 0, ..alive })), "on its way out");
        assert!(is_orphan(&record, Some(Backend { generation: 3, ..alive })), "given away");
        assert!(is_orphan(&record, Some(Backend { service: 0, ..alive })), "free");
        assert!(is_orphan(&record, None), "no such entry");
    }
}
