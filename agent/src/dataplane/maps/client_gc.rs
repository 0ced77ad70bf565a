//! Garbage collection of the counts of clients.
//!
//! What was counted for a service that is gone must not count for one that gets its id. A socket of it may end later and
//! make its entry again, so the agent looks for such entries at its start, and with each `--reconcile-interval`.

use std::collections::HashSet;

use aya::maps::{IterableMap as _, MapError};
use sockline_ebpf::{
    client::{ClientCounts, ClientKey},
    id::ServiceId,
    name::{CHUNK, NameKey},
};

use super::{CLIENTS, ClientHash, SERVICE_NAMES};
use crate::{
    bpf::{
        kinds::{growable_hash::MapUsage, hash},
        mmap::{Access, SharedArray},
    },
    dataplane::{error::DataplaneError, maps, pinning::layout::Pins},
};

/// The word of [`sockline_ebpf::client::ClientTotals`].
const MADE: usize = 0;

/// A run over all clients.
pub struct ClientGc {
    pins: Pins,
    clients: ClientHash,
    totals: SharedArray<u64>,
}

/// What a run found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientUsage {
    pub usage: MapUsage,
    /// Entries that were dropped because the map was full, since the maps were created. Not less than before, but for
    /// those that programs made meanwhile.
    pub evicted: u64,
}

impl ClientGc {
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self {
            pins: pins.clone(),
            clients: maps::open_clients(pins)?,
            totals: maps::open_client_totals(pins, Access::Write)?,
        })
    }

    /// Counts entries, and removes those of services that are gone.
    pub fn run(&mut self) -> Result<ClientUsage, DataplaneError> {
        // First what was made: an entry that is made later is not missed.
        let made = self.totals.load(MADE);
        let mut keys = Vec::new();
        hash::for_each(CLIENTS, &self.clients, |key: &ClientKey, _: &[ClientCounts]| {
            keys.push(*key);
        })?;
        // Then the names: a service has its name before it has a client.
        let named = if keys.is_empty() { HashSet::new() } else { self.named()? };
        let mut removed = 0;
        for key in keys.iter().filter(|key| !named.contains(&key.service)) {
            match self.clients.remove(key) {
                Ok(()) => {
                    removed += 1;
                    // Each at once: an agent that is killed has counted all that it removed but one.
                    self.totals.subtract(MADE, 1);
                }
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(DataplaneError::map(CLIENTS, "write", error)),
            }
        }
        let failed = |error| DataplaneError::map(CLIENTS, "read", error);
        let capacity = self.clients.map().info().map_err(failed)?.max_entries().into();
        let entries = (keys.len() as u64).saturating_sub(removed);
        let evicted = made.saturating_sub(removed).saturating_sub(entries);
        Ok(ClientUsage { usage: MapUsage { entries, capacity, limit: capacity }, evicted })
    }

    /// The ids of all services that have a name.
    fn named(&self) -> Result<HashSet<ServiceId>, DataplaneError> {
        let mut named = HashSet::new();
        let names = maps::open_names(&self.pins)?;
        hash::for_each(SERVICE_NAMES, &names, |key: &NameKey, _: &[[u8; CHUNK]]| {
            named.insert(key.service);
        })?;
        Ok(named)
    }
}
