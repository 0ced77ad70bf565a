//! Records in socket storage: of sockets whose close no hook sees, because the kernel frees socket storage with the
//! socket, and of UDP sockets that need more than one beyond the table.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE, btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get, macros::btf_map, programs::SockAddrContext,
};
use sockline_ebpf::{
    counters::Fault,
    socket::{
        CONNECTION_UNITS, OverflowEntry, ROOT_CGROUP, STORAGE_RECORDS, SocketRecord, StorageRecords,
    },
};

use super::{
    config, helpers, hook_context, overflow,
    record::{Kept, RecordEntry},
    telemetry::{self, Ended},
};

/// Of UDP sockets.
#[btf_map]
static UDP_STORAGE: SkStorage<StorageRecords> = SkStorage::new();

/// Of MPTCP connections, and of all TCP sockets where the kernel's own cannot be told from others.
#[btf_map]
static TCP_STORAGE: SkStorage<OverflowEntry> = SkStorage::new();

/// The owner word of a record in use: only its socket finds its storage.
pub const IN_USE: u64 = 1;

const CREATE: u64 = BPF_SK_STORAGE_GET_F_CREATE as u64;

/// The records of a UDP socket, if it has any.
#[inline(always)]
pub fn of_udp(socket: *mut c_void) -> Option<*mut StorageRecords> {
    if socket.is_null() {
        return None;
    }
    let map = (&raw const UDP_STORAGE).cast_mut().cast();
    // SAFETY: a socket that the kernel gave us, and a socket storage map.
    let stored = unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), 0) };
    (!stored.is_null()).then_some(stored.cast())
}

/// Keeps a record of a UDP socket, if need be in place of the oldest.
#[inline(always)]
pub fn keep_of_udp(ctx: &SockAddrContext, record: &SocketRecord, kept: Kept) -> Result<(), Fault> {
    let socket = hook_context::socket(ctx);
    if socket.is_null() {
        return Err(Fault::NotRemembered);
    }
    let map = (&raw const UDP_STORAGE).cast_mut().cast();
    // SAFETY: a socket that the kernel gave us, and a socket storage map.
    let stored = unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), CREATE) };
    if stored.is_null() {
        return Err(Fault::NotRemembered);
    }
    let stored = stored.cast::<StorageRecords>();
    let mut best = 0;
    let mut oldest = u64::MAX;
    for index in 0..STORAGE_RECORDS {
        let candidate = RecordEntry::in_storage(stored, index);
        let since = match candidate.record_of(IN_USE) {
            Some(kept) => kept.since,
            None => 0,
        };
        if since < oldest {
            oldest = since;
            best = index;
        }
    }
    let entry = RecordEntry::in_storage(stored, best & (STORAGE_RECORDS - 1));
    if let Some(oldest) = entry.record_of(IN_USE) {
        telemetry::flow_dropped(oldest);
    }
    entry.write(record, IN_USE);
    if matches!(kept, Kept::Untracked) {
        entry.set_untracked();
    }
    Ok(())
}

/// The record of a connection, if it has one.
#[inline(always)]
pub fn of_connection(socket: *mut c_void) -> Option<*mut OverflowEntry> {
    if socket.is_null() {
        return None;
    }
    let map = (&raw const TCP_STORAGE).cast_mut().cast();
    // SAFETY: a socket that the kernel gave us, and a socket storage map.
    let stored = unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), 0) };
    (!stored.is_null()).then_some(stored.cast())
}

/// Keeps the record of a connection, in place of the one that it has.
///
/// One that was not charged for may be of a thread of the kernel, whose sockets end unseen.
#[inline(always)]
pub fn keep_of_connection(
    ctx: &SockAddrContext,
    socket: *mut c_void,
    record: &SocketRecord,
) -> Result<Kept, Fault> {
    let entry = match of_connection(socket) {
        Some(entry) => {
            release_attempt(ctx, entry);
            entry
        }
        None => make(socket)?,
    };
    RecordEntry::in_overflow(entry).write(record, IN_USE);
    // SAFETY: a live map value.
    if !config::can_tell_kernel_sockets() && unsafe { (*entry).units } == 0 {
        RecordEntry::in_overflow(entry).set_untracked();
        return Ok(Kept::Untracked);
    }
    Ok(Kept::UntilEnd)
}

#[inline(always)]
fn make(socket: *mut c_void) -> Result<*mut OverflowEntry, Fault> {
    if socket.is_null() {
        return Err(Fault::NotRemembered);
    }
    let cgroup = helpers::current_cgroup();
    // Where the kernel's own sockets cannot be told from others, those of its threads are here as well.
    // No hook sees their end, so what they took would never be given back.
    let is_charged = cgroup != ROOT_CGROUP || config::can_tell_kernel_sockets();
    if is_charged {
        overflow::take(cgroup, CONNECTION_UNITS)?;
    }
    let map = (&raw const TCP_STORAGE).cast_mut().cast();
    // SAFETY: a socket that the kernel gave us, and a socket storage map.
    let stored = unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), CREATE) };
    if stored.is_null() {
        // (Giving back 0 would be an instruction that kernels before 5.12 do not have.)
        if is_charged {
            overflow::give_back(cgroup, CONNECTION_UNITS);
        }
        return Err(Fault::NotRemembered);
    }
    let entry = stored.cast::<OverflowEntry>();
    // SAFETY: a live map value, and the first call of its connection, which holds its lock.
    unsafe {
        (*entry).cgroup = cgroup;
        (*entry).units = if is_charged { CONNECTION_UNITS } else { 0 };
    }
    Ok(entry)
}

/// Gives back what a connection was charged for, whose storage the kernel is about to free.
#[inline(always)]
pub fn give_back(entry: *mut OverflowEntry) {
    // SAFETY: a live map value; this is the socket's last call.
    let (cgroup, units) = unsafe { ((*entry).cgroup, (*entry).units) };
    overflow::give_back(cgroup, units);
}

/// Frees the record of a connection in socket storage whose socket connects again.
#[inline(always)]
pub fn release_attempt(ctx: &SockAddrContext, entry: *mut OverflowEntry) {
    let candidate = RecordEntry::in_overflow(entry);
    if let Some(record) = candidate.record_of(IN_USE) {
        Ended::of(record).attempt_ended(ctx.sock_addr);
        candidate.free();
    }
}
