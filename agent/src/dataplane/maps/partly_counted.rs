//! Counts connections while they are open: the agent's part of [`sockline_ebpf::partly_counted`].
//!
//! Only connections whose records are in the socket table. Those of other records (sockets whose set is full, MPTCP, all of
//! them before Linux 5.12) are counted when they end.

use std::{
    collections::HashSet,
    mem::offset_of,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use sockline_ebpf::{
    frontend::Protocol,
    id::ServiceId,
    partly_counted::{PLACES, Part, PartlyCounted, State},
    socket::SocketRecord,
};

use super::socket_table::{PlacedRecord, SocketTable};
use crate::{
    bpf::mmap::{Access, Field, SharedArray},
    dataplane::{error::DataplaneError, maps, pinning::layout::Pins},
};

const STATE: Field<PartlyCounted, State> =
    Field::new(offset_of!(PartlyCounted, state), |entry| &entry.state);
const STATE_WORD: Field<PartlyCounted, u64> =
    Field::new(offset_of!(PartlyCounted, state), |entry| &entry.state.0);
const PARTS: [Field<PartlyCounted, Part>; 2] = [
    Field::new(offset_of!(PartlyCounted, parts), |entry| &entry.parts[0]),
    Field::new(offset_of!(PartlyCounted, parts) + size_of::<Part>(), |entry| &entry.parts[1]),
];

/// An open TCP connection whose record is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenConnection {
    place: u32,
    /// The socket's cookie.
    pub cookie: u64,
    pub(crate) record: SocketRecord,
}

/// The records of connections, and what is counted of them. For one thread that marks and counts at a time.
#[derive(Clone)]
pub struct OpenConnections {
    sockets: SocketTable,
    entries: Arc<SharedArray<PartlyCounted>>,
}

impl OpenConnection {
    #[must_use]
    pub const fn key(&self) -> ConnectionKey {
        (self.cookie, self.record.since)
    }

    /// The id of the service port that it was opened to.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        self.record.service
    }
}

/// A connection of any time: the socket's cookie, and when it connected.
pub type ConnectionKey = (u64, u64);

/// Unmarked connections of a scan.
pub type Unmarked = HashSet<ConnectionKey>;

impl OpenConnections {
    pub(crate) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self {
            sockets: SocketTable::open_to_write(pins)?,
            entries: Arc::new(open(pins, Access::Write)?),
        })
    }

    /// All connections whose records are not marked.
    #[must_use]
    pub fn unmarked(&self) -> Unmarked {
        self.mark(&Unmarked::new())
    }

    /// Marks the connections that were open at the last scan, too. Returns those that were not, for the next scan.
    pub fn mark(&self, known: &Unmarked) -> Unmarked {
        let mut unmarked = Unmarked::new();
        for placed in self.connections() {
            if placed.record.about.is_partly_counted() {
                continue;
            }
            let key = (placed.cookie, placed.record.since);
            if known.contains(&key) {
                self.mark_one(&placed);
            } else {
                unmarked.insert(key);
            }
        }
        unmarked
    }

    /// If the place has another record by now that looks the same, that is marked: nothing is counted of it either.
    fn mark_one(&self, PlacedRecord { place, record, .. }: &PlacedRecord) {
        let entry = self.entries.cell(*place as usize);
        entry.set(PARTS[State::default().valid()], Part::default());
        entry.publish(STATE, State::default());
        self.sockets.mark(*place, record.about);
    }

    /// All connections whose records are marked. Wait for running programs (RCU) between [`Self::mark`] and this: those that
    /// saw a record before it was marked have ended then, and with them the records that they saw the end of.
    #[must_use]
    pub fn marked(&self) -> Vec<OpenConnection> {
        let marked = self.connections().filter(|placed| placed.record.about.is_partly_counted());
        let connection =
            |PlacedRecord { place, cookie, record }| OpenConnection { place, cookie, record };
        marked.map(connection).collect()
    }

    /// Takes over what the kernel says of a connection now. Returns what the caller is to count; nothing if the connection
    /// has ended meanwhile: then a program counts it.
    pub fn take(&self, connection: &OpenConnection, now: Part) -> Option<Part> {
        let entry = self.entries.cell(connection.place as usize);
        let state = entry.get(STATE);
        if state.has_ended() {
            return None;
        }
        let before = entry.get(PARTS[state.valid()]);
        let now = Part {
            sent: now.sent.max(before.sent),
            received: now.received.max(before.received),
            retransmitted: now.retransmitted.max(before.retransmitted),
        };
        if now == before {
            return None;
        }
        entry.set(PARTS[state.other().valid()], now);
        if !entry.compare_exchange(STATE_WORD, state.0, state.other().0) {
            return None;
        }
        Some(Part {
            sent: now.sent - before.sent,
            received: now.received - before.received,
            retransmitted: now.retransmitted - before.retransmitted,
        })
    }

    /// The TCP connections whose end is seen.
    fn connections(&self) -> impl Iterator<Item = PlacedRecord> + '_ {
        self.sockets.scan().filter(|PlacedRecord { record, .. }| {
            record.protocol() == Some(Protocol::Tcp) && !record.about.is_untracked()
        })
    }
}

/// What is counted of open connections, for reading.
#[derive(Clone)]
pub struct Parts(Arc<SharedArray<PartlyCounted>>);

impl Parts {
    pub(crate) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self(Arc::new(open(pins, Access::Read)?)))
    }

    /// What is counted of the connection at a place whose record is marked; nothing once it has ended.
    #[must_use]
    pub fn of(&self, place: u32) -> Part {
        let entry = self.0.cell(place as usize);
        loop {
            let state = entry.get(STATE);
            if state.has_ended() {
                return Part::default();
            }
            fence(Ordering::Acquire);
            let part = entry.get(PARTS[state.valid()]);
            fence(Ordering::Acquire);
            // The agent may have changed it twice meanwhile, and be writing where it was read.
            if entry.get(STATE) == state {
                return part;
            }
        }
    }
}

/// By place.
fn open(pins: &Pins, access: Access) -> Result<SharedArray<PartlyCounted>, DataplaneError> {
    maps::shared(pins, maps::PARTLY_COUNTED, PLACES, access)
}
