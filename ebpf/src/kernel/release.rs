//! The end of a socket, of an attempt to connect it, and of a flow: their records are counted, and freed.
//!
//! For a socket without a record, this reads one cache line. Everything else is in separate BPF functions: see [`super::telemetry`].

use aya_ebpf::{
    bindings::bpf_sock_addr,
    programs::{SockAddrContext, SockContext},
};
use sockline_ebpf::socket::{OverflowEntry, RECORD_UNITS, STORAGE_RECORDS, WAYS};

use super::{
    config, debug_log, helpers,
    hook_context::{MPTCP, TCP},
    overflow,
    record::RecordEntry,
    socket_table::{place_of, set_of},
    storage::{self, IN_USE},
    telemetry::Ended,
};

/// Frees the records of a socket that is being closed.
///
/// Before Linux 6.12 each function takes 32 bytes of the stack at least, and what counts takes nearly all of it: so it
/// is called from here, and only from here.
#[inline(always)]
pub fn release(ctx: &SockContext) {
    let cookie = helpers::socket_cookie(ctx);
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            let candidate = RecordEntry::in_table(set, way);
            if let Some(record) = candidate.record_of(cookie) {
                let end = Ended::at(record, place_of(cookie, way)).socket_closed(ctx.sock);
                debug_log::freed(ctx, record, end);
                candidate.free();
            }
        }
    }
    if overflow::is_in_use() {
        if let Some(entry) = overflow::find(cookie) {
            release_overflow(ctx, cookie, entry);
        }
        // SAFETY: the context is valid while the program runs.
        let protocol = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock).protocol) };
        if (protocol == MPTCP || (protocol == TCP && !config::can_tell_kernel_sockets()))
            && let Some(entry) = storage::of_connection(ctx.sock.cast())
        {
            if let Some(record) = RecordEntry::in_overflow(entry).record_of(IN_USE) {
                let end = Ended::of(record).socket_closed(ctx.sock);
                debug_log::freed(ctx, record, end);
            }
            storage::give_back(entry);
        }
    }
}

#[inline(always)]
fn release_overflow(ctx: &SockContext, cookie: u64, mut entry: *mut OverflowEntry) {
    // SAFETY: a live map value.
    if unsafe { (*entry).units } != RECORD_UNITS
        && let Some(stored) = storage::of_udp(ctx.sock.cast())
    {
        for index in 0..STORAGE_RECORDS {
            let candidate = RecordEntry::in_storage(stored, index);
            if let Some(record) = candidate.record_of(IN_USE) {
                let end = Ended::of(record).socket_closed(ctx.sock);
                debug_log::freed(ctx, record, end);
                candidate.free();
            }
        }
        // Found once more, which few sockets need: to keep it would take room on the stack.
        let Some(found) = overflow::find(cookie) else { return };
        entry = found;
    }
    let ended = ended_in(entry, cookie);
    if sockline_release_entry(cookie) != 0 {
        ended.socket_closed(ctx.sock);
    }
}

/// See [`overflow::release`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_release_entry(cookie: u64) -> u32 {
    overflow::release(cookie).into()
}

/// The record in an entry of the overflow hash.
#[inline(always)]
fn ended_in(entry: *mut OverflowEntry, cookie: u64) -> Ended {
    match RecordEntry::in_overflow(entry).record_of(cookie) {
        Some(record) => Ended::of(record),
        None => Ended::NOTHING,
    }
}

/// Frees the record of a TCP socket that connects again: it has one peer at a time.
#[inline(always)]
pub fn release_attempt(ctx: &SockAddrContext, cookie: u64) {
    sockline_release_attempt(ctx.sock_addr, cookie);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_release_attempt(ctx: *mut bpf_sock_addr, cookie: u64) -> u32 {
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            let candidate = RecordEntry::in_table(set, way);
            if let Some(record) = candidate.record_of(cookie) {
                Ended::at(record, place_of(cookie, way)).attempt_ended(ctx);
                candidate.free();
            }
        }
    }
    if overflow::is_in_use()
        && let Some(entry) = overflow::find(cookie)
    {
        let ended = ended_in(entry, cookie);
        if overflow::release(cookie) {
            ended.attempt_ended(ctx);
        }
    }
    0
}
