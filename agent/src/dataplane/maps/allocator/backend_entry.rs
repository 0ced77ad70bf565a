//! Writing a backend's entry while programs use it.
//!
//! A program compares the entry's owner with its service first and reads the rest after that. So what a
//! program may not see half-written is written while the entry has no owner. Programs and the agent add to the
//! counts of connections, nobody sets them.
//!
//! Programs read with plain loads. The compiler has those of the address behind the comparison; x86 keeps that
//! order, arm64 need not: there, a program that runs while an entry is written can load other fields before and
//! the owner after, and take a wrong address for this call. To a new entry come only sockets and affinity
//! records that remember its id from before; to one that is [`repair`]ed come all.

use std::mem::offset_of;

use sockline_ebpf::{
    address::Address,
    backend::{Backend, Scopes},
    id::ServiceId,
    partly_counted::Part,
    telemetry::ConnectionCounts,
};

use crate::bpf::mmap::{Cell, Field};

const ADDRESS: Field<Backend, Address> =
    Field::new(offset_of!(Backend, address), |backend| &backend.address);
pub const SERVICE: Field<Backend, ServiceId> =
    Field::new(offset_of!(Backend, service), |backend| &backend.service);
const PORT: Field<Backend, u16> = Field::new(offset_of!(Backend, port), |backend| &backend.port);
const WEIGHT: Field<Backend, u16> =
    Field::new(offset_of!(Backend, weight), |backend| &backend.weight);
const SCOPES: Field<Backend, Scopes> =
    Field::new(offset_of!(Backend, scopes), |backend| &backend.scopes);
pub const CLASS: Field<Backend, u8> =
    Field::new(offset_of!(Backend, class), |backend| &backend.class);
const GENERATION: Field<Backend, u32> =
    Field::new(offset_of!(Backend, generation), |backend| &backend.generation);
pub const COUNTS: Field<Backend, ConnectionCounts> =
    Field::new(offset_of!(Backend, counts), |backend| &backend.counts);

const SENT: Field<Backend, u64> =
    Field::new(offset_of!(Backend, counts.sent), |backend| &backend.counts.sent);
const RECEIVED: Field<Backend, u64> =
    Field::new(offset_of!(Backend, counts.received), |backend| &backend.counts.received);
const RETRANSMITTED: Field<Backend, u64> =
    Field::new(offset_of!(Backend, counts.retransmitted), |backend| &backend.counts.retransmitted);

/// Counts what is new of a connection that is open.
pub fn add_part(entry: &Cell<'_, Backend>, part: &Part) {
    for (field, more) in
        [(SENT, part.sent), (RECEIVED, part.received), (RETRANSMITTED, part.retransmitted)]
    {
        if more > 0 {
            entry.add(field, more);
        }
    }
}

/// Writes an endpoint into a free entry, which no program reads. Returns its generation.
pub fn make(entry: &Cell<'_, Backend>, backend: Backend) -> u32 {
    let generation = entry.read().generation.wrapping_add(1);
    entry.write(Backend { service: ServiceId::NONE, generation, ..backend });
    entry.publish(SERVICE, backend.service);
    generation
}

/// Which frontends may use it from now on, its weight, and the class of its traffic.
pub fn change(entry: &Cell<'_, Backend>, scopes: Scopes, weight: u16, class: u8) {
    entry.publish(SCOPES, scopes);
    entry.publish(WEIGHT, weight);
    entry.publish(CLASS, class);
}

/// No frontend may use it any more, and what was remembered of it does not fit any more: connections that end from
/// now on count for its service. Running programs may have seen it before. `known` is its generation; what the entry
/// has may have been changed, and sockets may remember either.
pub fn retire(entry: &Cell<'_, Backend>, known: u32) {
    entry.withdraw(SCOPES, Scopes::empty());
    entry.publish(GENERATION, entry.get(GENERATION).max(known).wrapping_add(1));
}

/// Clears the owner. Running programs may have read it before.
pub fn disown(entry: &Cell<'_, Backend>) {
    entry.withdraw(SERVICE, ServiceId::NONE);
}

/// Frees it.
pub fn clear(entry: &Cell<'_, Backend>) {
    disown(entry);
    entry.publish(SCOPES, Scopes::empty());
}

/// Whether programs could connect to a wrong address by it; [`correct`] repairs all else.
pub fn leads_elsewhere(entry: &Backend, wanted: &Backend) -> bool {
    (entry.address, entry.port, entry.service) != (wanted.address, wanted.port, wanted.service)
}

/// Writes what programs may see change while they run.
pub fn correct(entry: &Cell<'_, Backend>, wanted: &Backend) {
    change(entry, wanted.scopes, wanted.weight, wanted.class);
    entry.publish(GENERATION, wanted.generation);
}

/// Writes what an entry should be that was [`disown`]ed, with the same counts. Every program that ran at that time
/// must have ended. Exact on x86: see above.
pub fn repair(entry: &Cell<'_, Backend>, wanted: &Backend) {
    entry.set(ADDRESS, wanted.address);
    entry.set(PORT, wanted.port);
    entry.set(GENERATION, wanted.generation);
    entry.set(WEIGHT, wanted.weight);
    entry.set(SCOPES, wanted.scopes);
    entry.set(CLASS, wanted.class);
    entry.publish(SERVICE, wanted.service);
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsFd as _,
        sync::atomic::{AtomicBool, AtomicU64, Ordering},
        thread,
    };

    use aya::maps::MapData;
    use sockline_ebpf::MMAPABLE;

    use super::*;
    use crate::bpf::{
        kinds::create,
        mmap::{Access, SharedArray},
    };

    const WANTED: Backend = Backend {
        address: Address { words: [1, 2, 3, 4] },
        service: ServiceId(5),
        generation: 0,
        port: 6,
        weight: 7,
        scopes: Scopes::all(),
        class: 3,
        padding: [0; 2],
        counts: ConnectionCounts::NONE,
        reserved: 0,
    };

    const OPENED: Field<Backend, u64> =
        Field::new(offset_of!(Backend, counts.opened), |backend| &backend.counts.opened);

    fn mapped(map: &MapData) -> SharedArray<Backend> {
        SharedArray::map(map.fd().as_fd(), 1, Access::Write).unwrap()
    }

    #[test]
    fn a_repair_loses_no_connection_that_is_counted_meanwhile() {
        const CONNECTIONS_MADE: u64 = 300_000;
        // However the two threads are scheduled: as many repairs happen during the additions.
        const REPAIRS: u64 = 100;
        let map = create::array::<Backend>("REPAIRED", 1, MMAPABLE).unwrap();
        let agent = mapped(&map);
        let generation = make(&agent.cell(0), WANTED);
        let program = mapped(&map);
        let (done, repairs) = (AtomicBool::new(false), AtomicU64::new(0));
        let made = thread::scope(|scope| {
            let adding = scope.spawn(|| {
                let mut made = 0;
                while made < CONNECTIONS_MADE || repairs.load(Ordering::Relaxed) < REPAIRS {
                    program.cell(0).add(OPENED, 1);
                    made += 1;
                }
                done.store(true, Ordering::Release);
                made
            });
            while !done.load(Ordering::Acquire) {
                disown(&agent.cell(0));
                repair(&agent.cell(0), &Backend { generation, ..WANTED });
                repairs.fetch_add(1, Ordering::Relaxed);
            }
            adding.join().unwrap()
        });
        let repairs = repairs.into_inner();
        let entry = agent.read(0);
        assert_eq!(entry.counts.opened, made, "after {repairs} repairs");
        let counts = ConnectionCounts { opened: made, ..ConnectionCounts::NONE };
        assert_eq!(entry, Backend { generation: 1, counts, ..WANTED });
    }
}
