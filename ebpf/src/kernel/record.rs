//! A record, and the word that says whose it is: how it is written while others read.
//!
//! A call that writes claims the word first, and others find nothing meanwhile. A record is found by the
//! word alone, so that is written last and read first (see [`helpers`] for machines that reorder memory).
//!
//! Two calls of one socket never write at once: the kernel holds the socket's lock while a hook of
//! `connect()`, `sendmsg()` or `recvmsg()` runs (`BPF_CGROUP_RUN_SA_PROG_LOCK`,
//! `include/linux/bpf-cgroup.h`), and the last `close()` is alone. `getpeername()` only reads. So only a
//! free place needs compare-and-swap: every socket of the set may claim that.

use core::ptr;

use sockline_ebpf::{
    address::Address,
    socket::{CLAIMED, OverflowEntry, SocketRecord, SocketSet, StoredRecords},
};

use super::helpers;

/// The holder of a record that is in nobody's use.
const FREE: u64 = 0;

/// A record and the word that says whose it is.
#[derive(Clone, Copy)]
pub struct Place {
    holder: *mut u64,
    record: *mut SocketRecord,
}

impl Place {
    #[inline(always)]
    pub fn in_table(set: *mut SocketSet, way: usize) -> Self {
        // SAFETY: `way` is below WAYS.
        unsafe {
            Self {
                holder: (&raw mut (*set).cookies).cast::<u64>().add(way),
                record: (&raw mut (*set).records).cast::<SocketRecord>().add(way),
            }
        }
    }

    #[inline(always)]
    pub fn in_storage(stored: *mut StoredRecords, index: usize) -> Self {
        // SAFETY: `index` is below STORED.
        unsafe {
            Self {
                holder: (&raw mut (*stored).used).cast::<u64>().add(index),
                record: (&raw mut (*stored).records).cast::<SocketRecord>().add(index),
            }
        }
    }

    #[inline(always)]
    pub fn in_overflow(entry: *mut OverflowEntry) -> Self {
        // SAFETY: a live map value.
        unsafe { Self { holder: &raw mut (*entry).holder, record: &raw mut (*entry).record } }
    }

    #[inline(always)]
    pub fn is_held_by(self, holder: u64) -> bool {
        self.holder() == holder
    }

    #[inline(always)]
    fn is_free(self) -> bool {
        self.holder() == FREE
    }

    /// The record, if it is this holder's. Only its socket's own calls write it then, so it may be read.
    #[inline(always)]
    pub fn of(self, holder: u64) -> Option<&'static SocketRecord> {
        if self.holder() != holder {
            return None;
        }
        // On x86 this is the same load once more, from the same cache line; elsewhere it is what orders
        // the record after the word, and only whoever found its own record pays for that.
        // SAFETY: a live map value.
        if unsafe { helpers::load_acquire(self.holder) } != holder {
            return None;
        }
        // SAFETY: map memory stays until the program ends.
        Some(unsafe { &*self.record })
    }

    #[inline(always)]
    fn holder(self) -> u64 {
        // SAFETY: a live map value; other CPUs write this word, hence volatile.
        unsafe { ptr::read_volatile(self.holder) }
    }

    #[inline(always)]
    pub fn claim(self) -> bool {
        // SAFETY: a live map value.
        self.is_free() && unsafe { helpers::replace(self.holder, FREE, CLAIMED) }
    }

    /// Writes a record that this call owns: nobody finds it until all of it is there.
    #[inline(always)]
    pub fn fill(self, record: &SocketRecord, holder: u64) {
        // SAFETY: a live map value.
        unsafe {
            helpers::publish(self.holder, CLAIMED);
            *self.record = *record;
            helpers::publish(self.holder, holder);
        }
    }

    #[inline(always)]
    pub fn free(self) {
        // SAFETY: a live map value.
        unsafe { ptr::write_volatile(self.holder, FREE) };
    }
}

/// Whether two records of one socket exclude each other: the same service, or the same backend.
#[inline(always)]
pub fn exclude_each_other(one: &SocketRecord, other: &SocketRecord) -> bool {
    (one.service_port == other.service_port && one.service_address == other.service_address)
        || is_with(one, &other.backend_address, other.backend_port)
}

/// Whether a record is of a conversation with this address and port (network byte order).
#[inline(always)]
pub fn is_with(record: &SocketRecord, address: &Address, port: u16) -> bool {
    record.backend_port == port && record.backend_address == *address
}
