//! Sockets whose backend is gone, found in the programs' records.
//!
//! The result depends only on the maps as they are, not on events: nothing is lost if an agent ends
//! between a change and its effects.

use std::{collections::HashMap, net::IpAddr};

use aya::maps::MapError;
use sockline_ebpf::{
    backend::Backend,
    frontend::{FrontendKey, Protocol},
    id::ServiceId,
    socket::{About, OverflowEntry, RECORD_UNITS, SocketRecord},
};

use super::overflow::OverflowUsage;
use crate::{
    bpf::kinds::hash,
    dataplane::{
        error::DataplaneError,
        maps::{
            self, OverflowHash,
            service_names::ServiceKey,
            socket_table::{PlacedRecord, SocketTable},
        },
        pinning::layout::Pins,
        reconcile::Reconciler,
    },
};

/// A socket whose backend is gone: it was removed, or its entry belongs to another backend now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaleSocket {
    /// The socket's cookie: unique until the machine restarts.
    pub cookie: u64,
    pub record: SocketRecord,
    /// It is in the overflow hash, and not in the table.
    pub in_overflow: bool,
}

impl StaleSocket {
    /// The service address and port that the socket dialled.
    #[must_use]
    pub fn service(&self) -> (IpAddr, u16) {
        (self.record.service_address.into(), u16::from_be(self.record.service_port))
    }

    /// The backend's address and port.
    #[must_use]
    pub fn backend(&self) -> (IpAddr, u16) {
        (self.record.backend_address.into(), u16::from_be(self.record.backend_port))
    }
}

/// The owner of a service address, by protocol.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    pub tcp: Option<ServiceKey>,
    pub udp: Option<ServiceKey>,
}

/// What this module reads, kept open.
pub(crate) struct Sockets {
    table: SocketTable,
    overflow: OverflowHash,
    overflow_usage: OverflowUsage,
}

impl Sockets {
    pub(crate) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self {
            table: SocketTable::open(pins)?,
            overflow: maps::open_overflow(pins)?,
            overflow_usage: OverflowUsage::open(pins)?,
        })
    }

    pub(crate) const fn table(&self) -> &SocketTable {
        &self.table
    }

    /// All sockets whose backend is gone; with an error if the list is incomplete.
    pub(crate) fn stale_sockets(
        &self,
        reconciler: &Reconciler,
    ) -> (Vec<StaleSocket>, Result<(), DataplaneError>) {
        let is_stale = |record: &SocketRecord| is_stale(record, reconciler.backend(record.backend));
        let mut stale_sockets: Vec<StaleSocket> = self
            .table
            .scan()
            .filter(|placed| is_stale(&placed.record))
            .map(|PlacedRecord { cookie, record, .. }| StaleSocket {
                cookie,
                record,
                in_overflow: false,
            })
            .collect();
        let all = self.for_each_overflow(|cookie, record| {
            if is_stale(record) {
                stale_sockets.push(StaleSocket { cookie, record: *record, in_overflow: true });
            }
        });
        (stale_sockets, all)
    }

    pub(super) fn for_each_overflow(
        &self,
        mut each: impl FnMut(u64, &SocketRecord),
    ) -> Result<(), DataplaneError> {
        if self.overflow_usage.usage().entries == 0 {
            return Ok(());
        }
        hash::for_each(
            maps::OVERFLOW,
            &self.overflow,
            |&cookie: &u64, entries: &[OverflowEntry]| {
                let held = entries.iter().filter(|entry| entry.owner == cookie);
                held.for_each(|entry| each(cookie, &entry.record));
            },
        )?;
        Ok(())
    }

    /// Removes the overflow entry of a socket that exists no more, unless it changed meanwhile.
    /// Closing a socket removes its entry; this is for sockets that were closed while programs of
    /// an older agent were attached. A TCP socket that was reset is not found either while its application
    /// has it open.
    ///
    /// Returns the service of a connection whose end nobody counts from now on. A program that ends the entry
    /// first counts it.
    pub(crate) fn forget(
        &mut self,
        socket: &StaleSocket,
    ) -> Result<Option<(ServiceId, About)>, DataplaneError> {
        match self.overflow.get(&socket.cookie, 0) {
            // One with more has flows in socket storage, which only programs see: they end with the socket.
            Ok(entry) if entry.record == socket.record && entry.units <= RECORD_UNITS => {}
            Ok(_) | Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(DataplaneError::map(maps::OVERFLOW, "read", error)),
        }
        let taken = hash::take(&mut self.overflow, &socket.cookie)
            .map_err(|error| DataplaneError::map(maps::OVERFLOW, "write", error))?;
        let Some(entry) = taken else { return Ok(None) };
        if entry.record != socket.record
            && hash::insert(&mut self.overflow, &socket.cookie, &entry, hash::NEW).is_ok()
        {
            // The socket connected again in between.
            return Ok(None);
        }
        self.overflow_usage.give_back(entry.cgroup, entry.units);
        let is_counted = entry.owner == socket.cookie && !entry.record.about.is_untracked();
        Ok(is_counted.then_some((entry.record.service, entry.record.about)))
    }
}

/// Whether a record's backend is gone or its entry reused.
fn is_stale(record: &SocketRecord, backend: Option<Backend>) -> bool {
    backend.is_none_or(|backend| {
        backend.scopes.is_empty()
            || backend.generation != record.generation
            || backend.service != record.service
    })
}

impl Reconciler {
    /// The current owners of these sockets' service addresses. A released service port counts as the owner
    /// of an address that no other one has since: it may still exist.
    pub(crate) fn owners(&self, stale_sockets: &[StaleSocket]) -> HashMap<(IpAddr, u16), Owners> {
        let services = self.keys_by_id();
        let owner = |record: &SocketRecord, protocol: Protocol| match self
            .owner_of_record(record, protocol)
        {
            Some(id) => services.get(&id).map(|&key| key.clone()),
            None => self.released_owner(record, protocol).cloned(),
        };
        let mut all: HashMap<(IpAddr, u16), Owners> = HashMap::new();
        for socket in stale_sockets {
            let owners = all.entry(socket.service()).or_default();
            for (found, protocol) in
                [(&mut owners.tcp, Protocol::Tcp), (&mut owners.udp, Protocol::Udp)]
            {
                if found.is_none() {
                    *found = owner(&socket.record, protocol);
                }
            }
        }
        all
    }

    /// The id of the service port that has the address of a record, looked up as the programs do
    /// (`frontends.rs` of the kernel side).
    fn owner_of_record(&self, record: &SocketRecord, protocol: Protocol) -> Option<ServiceId> {
        let key = key_of(record, protocol);
        self.owner_of(&key).or_else(|| {
            let owner = self.owner_of(&key.at_all_nodes())?;
            // A node may be deleted before its endpoints. Then the service's id tells whose the
            // address was.
            let is_node_port = self.is_other_node(key.address) || owner == record.service;
            is_node_port.then_some(owner)
        })
    }

    /// The released service port that had the address of a record.
    fn released_owner(&self, record: &SocketRecord, protocol: Protocol) -> Option<&ServiceKey> {
        let key = key_of(record, protocol);
        self.released_from(&key).or_else(|| {
            let owner = self.released_from(&key.at_all_nodes())?;
            self.is_other_node(key.address).then_some(owner)
        })
    }
}

/// The frontend key that the programs look for with a record's service address.
fn key_of(record: &SocketRecord, protocol: Protocol) -> FrontendKey {
    let (dialled, port) = (record.service_address, record.service_port);
    // The programs look for all addresses of the local host at one.
    let address = dialled.as_loopback().unwrap_or(dialled);
    FrontendKey { address, port, protocol: protocol.byte(), padding: 0 }
}

#[cfg(test)]
mod tests {
    use sockline_ebpf::{backend::Scopes, id::BackendId};

    use super::*;

    #[test]
    fn a_record_is_stale_once_its_backend_is_removed_or_reused() {
        let record = SocketRecord {
            service: ServiceId(3),
            backend: BackendId(7),
            generation: 2,
            ..Default::default()
        };
        let alive = Backend {
            service: ServiceId(3),
            generation: 2,
            scopes: Scopes::INTERNAL,
            ..Backend::default()
        };
        assert!(!is_stale(&record, Some(alive)));
        assert!(
            is_stale(&record, Some(Backend { scopes: Scopes::empty(), ..alive })),
            "on its way out"
        );
        assert!(is_stale(&record, Some(Backend { generation: 3, ..alive })), "given away");
        assert!(is_stale(&record, Some(Backend { service: ServiceId::NONE, ..alive })), "free");
        assert!(is_stale(&record, None), "no such entry");
    }
}
