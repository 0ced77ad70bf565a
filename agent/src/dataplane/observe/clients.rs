//! Connections by client and service port.
//!
//! A client is a cgroup, by its id: [`crate::cgroups`] tells whose it is.

use std::collections::HashMap;

use sockline_ebpf::{
    agent::FeatureSet,
    client::{ClientCounts, ClientKey},
    id::ServiceId,
    partly_counted::Part,
    socket::SocketRecord,
};

use super::sockets::Sockets;
use crate::{
    bpf::kinds::hash,
    dataplane::{
        error::DataplaneError,
        maps::{
            self, ClientHash,
            partly_counted::Parts,
            service_names::{self, ServiceKey},
            socket_table::PlacedRecord,
        },
        pinning::layout::Pins,
    },
    model::probe_service::is_probe,
};

/// The connections of one client to one service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConnections {
    /// The id of the client's cgroup; 0 if it is not known.
    pub cgroup: u64,
    pub id: ServiceId,
    pub service: ServiceKey,
    /// Those that are open now, or being opened, as far as their records can be read: those in socket storage (MPTCP,
    /// and further flows of one UDP socket) cannot.
    pub active: u64,
    /// Those that ended.
    pub ended: ClientCounts,
    /// What is counted of those that are open.
    pub open: Part,
}

impl ClientConnections {
    /// Those that were opened, but for those that ended while this was read.
    #[must_use]
    pub const fn opened(&self) -> u64 {
        self.active + self.ended.closed
    }
}

/// What is counted of a client and a service port.
#[derive(Default)]
struct Client {
    active: u64,
    ended: ClientCounts,
    open: Part,
}

/// The connections of all clients, kept open for reading.
pub struct Clients {
    pins: Pins,
    features: FeatureSet,
    sockets: Sockets,
    parts: Parts,
    ended: ClientHash,
}

impl Clients {
    pub(crate) fn open(pins: &Pins, features: FeatureSet) -> Result<Self, DataplaneError> {
        Ok(Self {
            pins: pins.clone(),
            features,
            sockets: Sockets::open(pins)?,
            parts: Parts::open(pins)?,
            ended: maps::open_clients(pins)?,
        })
    }

    /// All clients of all service ports that have a name, in no order. Takes some milliseconds.
    ///
    /// A connection that ends meanwhile may be neither active nor ended. A client's entry may be dropped when there are
    /// more than `--max-clients`; then its counts begin at 0 again.
    pub fn connections(&self) -> Result<Vec<ClientConnections>, DataplaneError> {
        let mut all: HashMap<(u64, ServiceId), Client> = HashMap::new();
        // First those that ended: no counter of opened connections may be ahead of them.
        hash::for_each(maps::CLIENTS, &self.ended, |key: &ClientKey, counts: &[ClientCounts]| {
            let ended = &mut all.entry((key.cgroup, key.service)).or_default().ended;
            counts.iter().for_each(|one| ended.add(one));
        })?;
        self.for_each_record(|record, part| {
            if !record.about.is_untracked() {
                let client = all.entry((record.about.cgroup(), record.service)).or_default();
                client.active += 1;
                client.open.add(&part);
            }
        })?;
        let names = service_names::read_all(&maps::open_names(&self.pins)?)?;
        let named = all.into_iter().filter_map(|((cgroup, id), client)| {
            let service = names.get(&id).filter(|key| !is_probe(&key.service))?.clone();
            let Client { active, ended, open } = client;
            Some(ClientConnections { cgroup, id, service, active, ended, open })
        });
        Ok(named.collect())
    }

    /// With what is counted of its connection.
    fn for_each_record(
        &self,
        mut each: impl FnMut(&SocketRecord, Part),
    ) -> Result<(), DataplaneError> {
        // Before Linux 5.12 no program uses the table.
        if self.features.contains(FeatureSet::COMPARE_AND_SWAP) {
            for PlacedRecord { place, record, .. } in self.sockets.table().scan() {
                let is_marked = record.about.is_partly_counted();
                let part = if is_marked { self.parts.of(place) } else { Part::default() };
                each(&record, part);
            }
        }
        self.sockets.for_each_overflow(|_, record| each(record, Part::default()))
    }
}
