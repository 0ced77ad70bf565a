//! The table of sockets' records, in this process's memory while programs write it.

use std::{
    mem::offset_of,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use sockline_ebpf::{
    partly_counted::place,
    socket::{About, CLAIMED, SocketRecord, SocketSet, WAYS},
};

use crate::{
    bpf::mmap::{Access, Field, SharedArray},
    dataplane::{error::DataplaneError, maps, pinning::layout::Pins},
};

const COOKIES: Field<SocketSet, [u64; WAYS]> =
    Field::new(offset_of!(SocketSet, cookies), |set| &set.cookies);
const ABOUTS: [Field<SocketSet, u64>; WAYS] = {
    let mut fields = [about(0); WAYS];
    let mut way = 1;
    while way < WAYS {
        fields[way] = about(way);
        way += 1;
    }
    fields
};

const fn about(way: usize) -> Field<SocketSet, u64> {
    let record = offset_of!(SocketSet, records) + way * size_of::<SocketRecord>();
    Field::new(record + offset_of!(SocketRecord, about), |set| &set.records[0].about.0)
}

/// The socket table.
#[derive(Clone)]
pub struct SocketTable {
    sets: Arc<SharedArray<SocketSet>>,
}

/// A record in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedRecord {
    /// As in [`sockline_ebpf::partly_counted`].
    pub place: u32,
    /// The socket's.
    pub cookie: u64,
    pub record: SocketRecord,
}

impl SocketTable {
    pub(crate) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self { sets: Arc::new(maps::open_sockets(pins, Access::Read)?) })
    }

    /// To mark records.
    pub(super) fn open_to_write(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self { sets: Arc::new(maps::open_sockets(pins, Access::Write)?) })
    }

    /// Whether a socket's record is still what was read before.
    #[must_use]
    pub fn holds(&self, cookie: u64, record: &SocketRecord) -> bool {
        let seen = self.sets.read(self.set_of(cookie));
        (0..WAYS).any(|way| seen.cookies[way] == cookie && seen.records[way].is_same(record))
    }

    /// The record of an open socket that has finished its connect.
    pub(crate) fn record(&self, cookie: u64) -> Option<SocketRecord> {
        let seen = self.sets.read(self.set_of(cookie));
        (0..WAYS).find(|&way| seen.cookies[way] == cookie).map(|way| seen.records[way])
    }

    fn set_of(&self, cookie: u64) -> usize {
        usize::try_from(cookie).unwrap_or(0) % self.sets.len().max(1)
    }

    /// All records. Programs write meanwhile: one that is being written is omitted.
    pub(crate) fn scan(&self) -> impl Iterator<Item = PlacedRecord> + '_ {
        (0..self.sets.len()).flat_map(|set| {
            let cell = self.sets.cell(set);
            // Most sets of most nodes are empty, which costs one cache line.
            let cookies = cell.get(COOKIES);
            let seen = cookies.iter().any(is_held).then(|| {
                fence(Ordering::Acquire);
                let first = cell.read();
                fence(Ordering::Acquire);
                (first, cell.read())
            });
            (0..WAYS).filter_map(move |way| {
                let (cookie, (first, second)) = (cookies[way], seen.as_ref()?);
                let record = second.records[way];
                // A program replaces the cookie while it writes the record, and the same socket may be back in between.
                let is_whole = [first, second].iter().all(|set| set.cookies[way] == cookie)
                    && record.is_same(&first.records[way]);
                let place = place(set as u32, way as u32);
                (is_held(&cookie) && is_whole).then_some(PlacedRecord { place, cookie, record })
            })
        })
    }

    /// Marks a record as partly counted, if this is still what it says about its connection. Only in a table that was
    /// opened to be written.
    pub(super) fn mark(&self, place: u32, about: About) {
        let (set, way) = (place as usize / WAYS, place as usize % WAYS);
        let marked = about.partly_counted();
        let _ = self.sets.cell(set).compare_exchange(ABOUTS[way], about.0, marked.0);
    }
}

const fn is_held(cookie: &u64) -> bool {
    !matches!(*cookie, 0 | CLAIMED)
}

#[cfg(test)]
mod tests {
    use std::{hint, os::fd::AsFd as _, sync::atomic::AtomicBool, thread};

    use sockline_ebpf::{
        MMAPABLE,
        frontend::Protocol,
        id::{BackendId, ServiceId},
    };

    use super::*;
    use crate::bpf::kinds::create;

    const SETS: usize = 4;

    fn table() -> SocketTable {
        let map = create::array::<SocketSet>("SHARED", SETS as u32, MMAPABLE).unwrap();
        let sets = SharedArray::map(map.fd().as_fd(), SETS, Access::Write).unwrap();
        SocketTable { sets: Arc::new(sets) }
    }

    fn record(number: u32) -> SocketRecord {
        SocketRecord {
            service: ServiceId(number),
            backend: BackendId(number),
            generation: number,
            about: About::new(Protocol::Tcp.byte(), number.into()),
            ..SocketRecord::default()
        }
    }

    #[test]
    fn a_scan_has_each_record_with_its_place_by_which_it_is_marked() {
        let table = table();
        let mut set = SocketSet::default();
        (set.cookies[0], set.records[0]) = (11, record(1));
        (set.cookies[3], set.records[3]) = (CLAIMED, record(2));
        (set.cookies[5], set.records[5]) = (19, record(3));
        table.sets.cell(3).write(set);
        let placed = |way, cookie, record| PlacedRecord { place: place(3, way), cookie, record };
        let (first, second) = (placed(0, 11, record(1)), placed(5, 19, record(3)));
        assert_eq!(table.scan().collect::<Vec<_>>(), [first, second]);
        table.mark(second.place, record(1).about);
        assert_eq!(table.scan().collect::<Vec<_>>(), [first, second], "it says something else");
        table.mark(second.place, second.record.about);
        let marks = table.scan().map(|one| one.record.about.is_partly_counted());
        assert_eq!(marks.collect::<Vec<_>>(), [false, true]);
        assert!(table.scan().all(|one| table.holds(one.cookie, &one.record)));
    }

    /// One socket, which connects repeatedly: its record is at all places of a set, so that scans often meet a write.
    #[test]
    fn no_record_of_a_scan_is_of_two_connections() {
        const RECORDS: Field<SocketSet, [SocketRecord; WAYS]> =
            Field::new(offset_of!(SocketSet, records), |set| &set.records);
        let table = table();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let set = table.sets.cell(0);
                for number in 1.. {
                    set.withdraw(COOKIES, [CLAIMED; WAYS]);
                    set.set(RECORDS, [record(number); WAYS]);
                    set.publish(COOKIES, [7; WAYS]);
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    // Connections of different lengths, so that scans see records of all ages.
                    (0..number % 256).for_each(|_| hint::spin_loop());
                }
            });
            while table.scan().next().is_none() {
                hint::spin_loop();
            }
            let records = (0..20_000).flat_map(|_| table.scan()).map(|one| one.record);
            let (whole, torn): (Vec<_>, Vec<_>) =
                records.partition(|seen| seen.is_same(&record(seen.generation)));
            is_over.store(true, Ordering::Relaxed);
            assert!(!whole.is_empty());
            assert_eq!(torn, []);
        });
    }
}
