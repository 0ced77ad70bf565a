//! A record and its owner word: how it is written while other programs read.
//!
//! A call that writes first claims the owner word, and others find nothing meanwhile. A record is found by
//! its owner word alone, so that is written last and read first (see [`helpers`] for machines that reorder
//! memory).
//!
//! Two calls of one socket never write at once: the kernel holds the socket's lock while a hook of
//! `connect()`, `sendmsg()` or `recvmsg()` runs (`BPF_CGROUP_RUN_SA_PROG_LOCK`,
//! `include/linux/bpf-cgroup.h`), and the last `close()` is alone. `getpeername()` only reads. So only a
//! free entry needs compare-and-swap: every socket of the set may claim that.

use core::ptr;

use sockline_ebpf::{
    address::Address,
    socket::{CLAIMED, OverflowEntry, SocketRecord, SocketSet, StorageRecords},
};

use super::{debug_log::Call, helpers};

/// The owner word of a free entry.
const FREE: u64 = 0;

/// What a translation is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Connect,
    /// A datagram of a socket that has another peer, or none.
    Send,
}

impl Purpose {
    /// What is logged as the hook.
    #[inline(always)]
    pub const fn call(self) -> Call {
        match self {
            Self::Connect => Call::Connect,
            Self::Send => Call::Send,
        }
    }
}

/// What came of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// A hook will see the socket's end.
    UntilEnd,
    /// There is none, or it ends unseen.
    Untracked,
}

/// A record in a map, and the owner word that says whose it is.
#[derive(Clone, Copy)]
pub struct RecordEntry {
    owner: *mut u64,
    record: *mut SocketRecord,
}

impl RecordEntry {
    #[inline(always)]
    pub fn in_table(set: *mut SocketSet, way: usize) -> Self {
        // SAFETY: `way` is below WAYS.
        unsafe {
            Self {
                owner: (&raw mut (*set).cookies).cast::<u64>().add(way),
                record: (&raw mut (*set).records).cast::<SocketRecord>().add(way),
            }
        }
    }

    #[inline(always)]
    pub fn in_storage(stored: *mut StorageRecords, index: usize) -> Self {
        // SAFETY: `index` is below STORAGE_RECORDS.
        unsafe {
            Self {
                owner: (&raw mut (*stored).used).cast::<u64>().add(index),
                record: (&raw mut (*stored).records).cast::<SocketRecord>().add(index),
            }
        }
    }

    #[inline(always)]
    pub fn in_overflow(entry: *mut OverflowEntry) -> Self {
        // SAFETY: a live map value.
        unsafe { Self { owner: &raw mut (*entry).owner, record: &raw mut (*entry).record } }
    }

    #[inline(always)]
    fn is_free(self) -> bool {
        self.owner() == FREE
    }

    /// The record, if this is its owner. Only its socket's own calls write it then, so it may be read.
    #[inline(always)]
    pub fn record_of(self, owner: u64) -> Option<&'static SocketRecord> {
        if self.owner() != owner {
            return None;
        }
        // On x86 this is the same load once more, from the same cache line; elsewhere it is what orders
        // the record after the word, and only a call that found its own record pays for that.
        // SAFETY: a live map value.
        if unsafe { helpers::load_acquire(self.owner) } != owner {
            return None;
        }
        // SAFETY: map memory stays until the program ends.
        Some(unsafe { &*self.record })
    }

    #[inline(always)]
    fn owner(self) -> u64 {
        // SAFETY: a live map value; other CPUs write this word, hence volatile.
        unsafe { ptr::read_volatile(self.owner) }
    }

    #[inline(always)]
    pub fn claim(self) -> bool {
        // SAFETY: a live map value.
        self.is_free() && unsafe { helpers::compare_exchange(self.owner, FREE, CLAIMED) }.is_ok()
    }

    /// Writes a record that this call owns: nobody finds it until all of it is there.
    #[inline(always)]
    pub fn write(self, record: &SocketRecord, owner: u64) {
        // SAFETY: a live map value.
        unsafe {
            helpers::store_release(self.owner, CLAIMED);
            *self.record = *record;
            helpers::store_release(self.owner, owner);
        }
    }

    /// Marks a record that this call has written: no hook sees its socket's end.
    #[inline(always)]
    pub fn set_untracked(self) {
        // SAFETY: a live map value, which only this call writes.
        unsafe {
            let about = &raw mut (*self.record).about;
            ptr::write_volatile(about, ptr::read_volatile(about).untracked());
        }
    }

    #[inline(always)]
    pub fn free(self) {
        // SAFETY: a live map value.
        unsafe { ptr::write_volatile(self.owner, FREE) };
    }
}

/// Whether a record is of a conversation with this address and port (network byte order).
#[inline(always)]
pub fn is_with(record: &SocketRecord, address: &Address, port: u16) -> bool {
    record.backend_port == port && record.backend_address == *address
}
