//! Writing a backend's entry while programs use it.
//!
//! A program compares the entry's owner with its service first and reads the rest after that. So what a
//! program may not see half-written is written while the entry has no owner. Only programs write the count of
//! connections.
//!
//! Programs read with plain loads. The compiler has those of the address behind the comparison; x86 keeps that
//! order, arm64 need not: there, a program that runs while an entry is written can load other fields before and
//! the owner after, and take a wrong address for this call. To a new entry come only sockets and affinity
//! records that remember its id from before; to one that is [`repair`]ed come all.

use std::mem::offset_of;

use sockline_ebpf::{address::Address, backend::Backend, id::ServiceId};

use crate::bpf::mmap::{Cell, Field};

const ADDRESS: Field<Backend, Address> =
    Field::new(offset_of!(Backend, address), |backend| &backend.address);
pub const SERVICE: Field<Backend, ServiceId> =
    Field::new(offset_of!(Backend, service), |backend| &backend.service);
const PORT: Field<Backend, u16> = Field::new(offset_of!(Backend, port), |backend| &backend.port);
const WEIGHT: Field<Backend, u16> =
    Field::new(offset_of!(Backend, weight), |backend| &backend.weight);
const SCOPES: Field<Backend, u8> =
    Field::new(offset_of!(Backend, scopes), |backend| &backend.scopes);
pub const CONNECTIONS: Field<Backend, u64> =
    Field::new(offset_of!(Backend, connections), |backend| &backend.connections);

/// Writes an endpoint into a free entry, which no program reads.
pub fn make(entry: &Cell<'_, Backend>, backend: Backend) {
    let generation = entry.read().generation.wrapping_add(1);
    entry.write(Backend { service: ServiceId::NONE, generation, ..backend });
    entry.publish(SERVICE, backend.service);
}

/// Which frontends may use it from now on, and its weight.
pub fn change(entry: &Cell<'_, Backend>, scopes: u8, weight: u16) {
    entry.publish(SCOPES, scopes);
    entry.publish(WEIGHT, weight);
}

/// Clears the owner. Running programs may have read it before.
pub fn disown(entry: &Cell<'_, Backend>) {
    entry.withdraw(SERVICE, ServiceId::NONE);
}

/// Frees it.
pub fn clear(entry: &Cell<'_, Backend>) {
    disown(entry);
    entry.publish(SCOPES, 0);
}

/// Whether programs could connect to a wrong address by it; [`change`] repairs all else.
pub fn leads_elsewhere(entry: &Backend, wanted: &Backend) -> bool {
    (entry.address, entry.port, entry.service) != (wanted.address, wanted.port, wanted.service)
}

/// Writes what an entry should be that was [`disown`]ed, under the same generation and with the same
/// count. Every program that ran when it was must have ended. Exact on x86: see above.
pub fn repair(entry: &Cell<'_, Backend>, wanted: &Backend) {
    entry.set(ADDRESS, wanted.address);
    entry.set(PORT, wanted.port);
    entry.set(WEIGHT, wanted.weight);
    entry.set(SCOPES, wanted.scopes);
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
        scopes: 3,
        padding: [0; 3],
        connections: 0,
        reserved: [0; 3],
    };

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
        make(&agent.cell(0), WANTED);
        let program = mapped(&map);
        let (done, repairs) = (AtomicBool::new(false), AtomicU64::new(0));
        let made = thread::scope(|scope| {
            let adding = scope.spawn(|| {
                let mut made = 0;
                while made < CONNECTIONS_MADE || repairs.load(Ordering::Relaxed) < REPAIRS {
                    program.cell(0).add(CONNECTIONS, 1);
                    made += 1;
                }
                done.store(true, Ordering::Release);
                made
            });
            while !done.load(Ordering::Acquire) {
                disown(&agent.cell(0));
                repair(&agent.cell(0), &WANTED);
                repairs.fetch_add(1, Ordering::Relaxed);
            }
            adding.join().unwrap()
        });
        let repairs = repairs.into_inner();
        let entry = agent.read(0);
        assert_eq!(entry.connections, made, "after {repairs} repairs");
        assert_eq!(entry, Backend { generation: 1, connections: made, ..WANTED });
    }
}
