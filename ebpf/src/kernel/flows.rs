//! The flows of a UDP socket that end while the socket lives: it has another backend now.
//!
//! Each is a BPF function of its own, see [`super::telemetry`]: a socket has up to 17 records in three places, and comparing
//! all of them within `connect()` and `sendmsg()` would double what the verifier has to check of these.

use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};
use sockline_ebpf::{
    backend::Backend,
    id::BackendId,
    socket::{RECORD_UNITS, STORAGE_RECORDS, SocketRecord, WAYS},
    telemetry::End,
};

use super::{
    balance,
    hook_context::{self, Family, HookContext, V4, V6},
    overflow,
    record::{Purpose, RecordEntry, is_with},
    socket_table::set_of,
    storage::{self, IN_USE},
    telemetry::{self, Ended},
};

/// Ends the flows that a new one excludes: those to the same service, or to the same backend.
///
/// A connect that fails later leaves the socket with the peer that it has, so the flow to that peer stays: until a
/// later call excludes it, or the socket is closed.
#[inline(always)]
pub fn end_excluded<F: Family>(
    hook: &HookContext<'_, F>,
    cookie: u64,
    backend: BackendId,
    purpose: Purpose,
) {
    let ctx = hook.context().sock_addr;
    let purpose = purpose as u32;
    if F::IS_V6 {
        sockline_end_excluded6(ctx, cookie, backend.0, purpose);
    } else {
        sockline_end_excluded4(ctx, cookie, backend.0, purpose);
    }
}

/// Ends the flow to an address that is dialled directly now.
#[inline(always)]
pub fn end_dialled<F: Family>(hook: &HookContext<'_, F>, cookie: u64) {
    let ctx = hook.context().sock_addr;
    if F::IS_V6 {
        sockline_end_dialled6(ctx, cookie);
    } else {
        sockline_end_dialled4(ctx, cookie);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_end_excluded4(
    ctx: *mut bpf_sock_addr,
    cookie: u64,
    backend: u32,
    purpose: u32,
) -> u32 {
    excluded::<V4>(ctx, cookie, BackendId(backend), purpose);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_end_excluded6(
    ctx: *mut bpf_sock_addr,
    cookie: u64,
    backend: u32,
    purpose: u32,
) -> u32 {
    excluded::<V6>(ctx, cookie, BackendId(backend), purpose);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_end_dialled4(ctx: *mut bpf_sock_addr, cookie: u64) -> u32 {
    dialled::<V4>(ctx, cookie);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sockline_end_dialled6(ctx: *mut bpf_sock_addr, cookie: u64) -> u32 {
    dialled::<V6>(ctx, cookie);
    0
}

/// It is called before the call has its new destination: the context has the address that is dialled.
#[inline(always)]
fn excluded<F: Family>(ctx: *mut bpf_sock_addr, cookie: u64, backend: BackendId, purpose: u32) {
    let ctx = SockAddrContext::new(ctx);
    let hook = HookContext::<F>::new(&ctx);
    let Some(entry) = balance::entry(backend) else { return };
    // SAFETY: array memory stays until the program ends.
    let chosen: &Backend = unsafe { &*entry };
    let (service, service_port) = (hook.dialled(), hook.port());
    // No `Option` from here on: the compiler reads what is in one without looking first whether there is something,
    // and before Linux 6.3 the verifier rejects reads of uninitialised stack.
    let peer = if purpose == Purpose::Connect as u32 { hook.peer() } else { None };
    let (peer_address, peer_port) = peer.unwrap_or_default();
    end_where(&ctx, cookie, |kept| {
        let is_with_chosen = is_with(kept, &chosen.address, chosen.port);
        let stays = peer_port != 0 && is_with(kept, &peer_address, peer_port) && !is_with_chosen;
        let is_same_service = kept.service_port == service_port && kept.service_address == service;
        !stays && (is_same_service || is_with_chosen)
    });
}

#[inline(always)]
fn dialled<F: Family>(ctx: *mut bpf_sock_addr, cookie: u64) {
    let ctx = SockAddrContext::new(ctx);
    let hook = HookContext::<F>::new(&ctx);
    let (address, port) = (hook.address(), hook.port());
    end_where(&ctx, cookie, |kept| is_with(kept, &address, port));
}

#[inline(always)]
fn end_where(ctx: &SockAddrContext, cookie: u64, ends: impl Fn(&SocketRecord) -> bool) {
    if let Some(set) = set_of(cookie) {
        for way in 0..WAYS {
            end_if(RecordEntry::in_table(set, way), cookie, &ends);
        }
    }
    if !overflow::is_in_use() {
        return;
    }
    if let Some(entry) = overflow::find(cookie) {
        // SAFETY: a live map value.
        if unsafe { (*entry).units } == RECORD_UNITS {
            // The only record beyond the table.
            if let Some(kept) = RecordEntry::in_overflow(entry).record_of(cookie)
                && ends(kept)
            {
                telemetry::flow_event(kept, End::Client);
                let ended = Ended::of(kept);
                if overflow::release(cookie) {
                    ended.flow_ended();
                }
            }
            return;
        }
        end_if(RecordEntry::in_overflow(entry), cookie, &ends);
    }
    if let Some(stored) = storage::of_udp(hook_context::socket(ctx)) {
        for index in 0..STORAGE_RECORDS {
            end_if(RecordEntry::in_storage(stored, index), IN_USE, &ends);
        }
    }
}

#[inline(always)]
fn end_if(entry: RecordEntry, owner: u64, ends: impl Fn(&SocketRecord) -> bool) {
    if let Some(kept) = entry.record_of(owner)
        && ends(kept)
    {
        telemetry::flow_event(kept, End::Client);
        Ended::of(kept).flow_ended();
        entry.free();
    }
}
