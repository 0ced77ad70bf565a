//! Writes an event for each connection that is opened or refused, or that ends, while the agent wants them.
//!
//! Otherwise that costs one load and a comparison. Each event is built where it lies in the ring buffer, since the
//! callers have no room on their stacks.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_RB_NO_WAKEUP, bpf_sock_addr},
    btf_maps::PerCpuArray,
    macros::{btf_map, map},
    maps::RingBuf,
    programs::SockAddrContext,
};
use sockline_ebpf::{
    address::Address,
    event::{BUDGET, Event, EventCounts, EventKind, RING_BYTES, WINDOW_SHIFT},
    id::{BackendKey, ServiceId},
    socket::{About, SocketRecord},
};

use super::socket::Outcome;
use crate::kernel::{
    agent_state, balance, helpers,
    hook_context::{Family, HookContext, V4, V6},
    record::Kept,
};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

#[btf_map]
static EVENT_COUNTS: PerCpuArray<EventCounts, 1> = PerCpuArray::new();

/// Whether events are written, as far as one load can tell.
#[inline(always)]
pub fn is_watched() -> bool {
    agent_state::events_until() != 0
}

/// A connection or a flow has a backend. Call it before the call has its new destination.
#[inline(always)]
pub fn opened<F: Family>(hook: &HookContext<'_, F>, record: &SocketRecord, kept: Kept) {
    let ctx = hook.context().sock_addr;
    let backend = record.backend_key().0;
    let about = record.about.0;
    let is_untracked = u32::from(kept == Kept::Untracked);
    if F::IS_V6 {
        sockline_opened6(ctx, backend, record.service.0, about, is_untracked);
    } else {
        sockline_opened4(ctx, backend, record.service.0, about, is_untracked);
    }
}

/// The call is refused.
#[inline(always)]
pub fn refused<F: Family>(hook: &HookContext<'_, F>, protocol: u8, service: ServiceId, reason: u8) {
    let ctx = hook.context().sock_addr;
    if F::IS_V6 {
        sockline_refused6(ctx, service.0, protocol.into(), reason.into());
    } else {
        sockline_refused4(ctx, service.0, protocol.into(), reason.into());
    }
}

/// The connection of a record has ended; the arguments are those of `Ended`.
#[inline(always)]
pub fn ended(backend: BackendKey, service: u32, since: u64, about: About, outcome: &Outcome) {
    let Some(event) = reserve() else { return };
    fill_end(event, backend, service, since, about, outcome.end as u8);
    fill_address_of_backend(event, backend);
    // SAFETY: room in the ring buffer, which is this call's until it is submitted.
    unsafe {
        (*event).sent = outcome.sent;
        (*event).received = outcome.received;
        (*event).round_trip = outcome.round_trip;
        (*event).retransmitted = outcome.retransmitted;
    }
    submit(event);
}

/// A flow has ended, or its record was dropped. There is no room on the stack to look up its backend.
#[inline(always)]
pub fn flow_ended(backend: BackendKey, service: u32, since: u64, about: About, end: u8) {
    let Some(event) = reserve() else { return };
    fill_end(event, backend, service, since, about, end);
    fill_without_outcome(event);
    submit(event);
}

/// Sets an address word by word: for 16 bytes at once the compiler calls a function, which takes 32 bytes of the stack
/// before Linux 6.12.
///
/// # Safety
///
/// `to` must point into room in the ring buffer.
#[inline(always)]
unsafe fn set(to: *mut Address, address: Address) {
    let words = to.cast::<u32>();
    for (index, word) in address.words.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { ptr::write_volatile(words.add(index), word) };
    }
}

const UNKNOWN: Address = Address { words: [0; 4] };

/// Defines the functions of a family. They are not inlined, for the verifier to check them once, and have the types that
/// it takes.
macro_rules! functions {
    ($family:ident, $opened:ident, $refused:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $opened(
            ctx: *mut bpf_sock_addr,
            backend: u64,
            service: u32,
            about: u64,
            is_untracked: u32,
        ) -> u32 {
            let (kind, about) = (EventKind::Opened, About(about));
            let backend = BackendKey(backend);
            write_call::<$family>(ctx, kind, is_untracked as u8, service, about, backend);
            0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $refused(
            ctx: *mut bpf_sock_addr,
            service: u32,
            protocol: u32,
            reason: u32,
        ) -> u32 {
            let about = About::new(protocol as u8, helpers::current_cgroup());
            let (kind, none) = (EventKind::Refused, BackendKey::default());
            write_call::<$family>(ctx, kind, reason as u8, service, about, none);
            0
        }
    };
}

functions!(V4, sockline_opened4, sockline_refused4);
functions!(V6, sockline_opened6, sockline_refused6);

/// Writes the event of a call that has not ended yet.
#[inline(always)]
fn write_call<F: Family>(
    ctx: *mut bpf_sock_addr,
    kind: EventKind,
    detail: u8,
    service: u32,
    about: About,
    backend: BackendKey,
) {
    let ctx = SockAddrContext::new(ctx);
    let hook = HookContext::<F>::new(&ctx);
    let Some(event) = reserve() else { return };
    fill(event, kind, detail, service, about);
    fill_backend(event, backend);
    fill_address_of_backend(event, backend);
    fill_without_outcome(event);
    // SAFETY: room in the ring buffer, which is this call's until it is submitted.
    unsafe {
        (*event).lifetime = 0;
        set(&raw mut (*event).service_address, hook.dialled());
        (*event).service_port = hook.port();
    }
    submit(event);
}

/// Room for an event that has the time, if one is wanted and may be written.
#[inline(always)]
fn reserve() -> Option<*mut Event> {
    let until = agent_state::events_until();
    if until == 0 {
        return None;
    }
    let now = helpers::now();
    // An agent that has ended does not renew this.
    if now >= until {
        return None;
    }
    let counts = EVENT_COUNTS.get_ptr_mut(0)?;
    let window = now >> WINDOW_SHIFT;
    // SAFETY: a live map value. Another program on this CPU may interrupt this one: then the budget is inexact, while
    // the counts are exact.
    unsafe {
        if (&raw const (*counts).window).read_volatile() != window {
            (&raw mut (*counts).window).write_volatile(window);
            (&raw mut (*counts).used).write_volatile(0);
        }
        let used = (&raw const (*counts).used).read_volatile();
        if used >= BUDGET {
            helpers::add(&raw mut (*counts).sampled, 1);
            return None;
        }
        (&raw mut (*counts).used).write_volatile(used + 1);
    }
    let event = helpers::ring_reserve::<Event>(&EVENTS);
    // SAFETY: a live map value, and room in the ring buffer.
    unsafe {
        if event.is_null() {
            helpers::add(&raw mut (*counts).lost, 1);
            return None;
        }
        helpers::add(&raw mut (*counts).written, 1);
        (*event).time = now;
    }
    Some(event)
}

/// What all events have. Nothing of the room's former content stays.
#[inline(always)]
fn fill(event: *mut Event, kind: EventKind, detail: u8, service: u32, about: About) {
    // SAFETY: room in the ring buffer, which is this call's until it is submitted.
    unsafe {
        (*event).cgroup = about.cgroup();
        (*event).service = ServiceId(service);
        (*event).pid = helpers::current_process();
        (*event).kind = kind.byte();
        (*event).protocol = about.0 as u8;
        (*event).detail = detail;
        (*event).padding = 0;
        helpers::current_name((&raw mut (*event).comm).cast());
    }
}

/// What an end has, but for the outcome.
#[inline(always)]
fn fill_end(
    event: *mut Event,
    backend: BackendKey,
    service: u32,
    since: u64,
    about: About,
    end: u8,
) {
    // SAFETY: room in the ring buffer, which is this call's until it is submitted.
    unsafe {
        (*event).lifetime = helpers::jiffies() - since;
        set(&raw mut (*event).service_address, UNKNOWN);
        (*event).service_port = 0;
    }
    fill(event, EventKind::Ended, end, service, about);
    fill_backend(event, backend);
}

#[inline(always)]
fn fill_without_outcome(event: *mut Event) {
    // SAFETY: room in the ring buffer, which is this call's until it is submitted. Volatile for the reason of [`set`].
    unsafe {
        ptr::write_volatile(&raw mut (*event).sent, 0);
        ptr::write_volatile(&raw mut (*event).received, 0);
        (*event).round_trip = 0;
        (*event).retransmitted = 0;
    }
}

#[inline(always)]
fn fill_backend(event: *mut Event, backend: BackendKey) {
    // SAFETY: room in the ring buffer, which is this call's until it is submitted.
    unsafe {
        (*event).backend = backend.id();
        (*event).generation = backend.generation();
        set(&raw mut (*event).backend_address, UNKNOWN);
        (*event).backend_port = 0;
    }
}

/// The backend's address while the entry belongs to it.
#[inline(always)]
fn fill_address_of_backend(event: *mut Event, backend: BackendKey) {
    let entry = balance::entry_of(backend);
    if entry.is_null() {
        return;
    }
    // SAFETY: a live map value, and room in the ring buffer.
    unsafe {
        set(&raw mut (*event).backend_address, (*entry).address);
        (*event).backend_port = (*entry).port;
    }
}

/// The agent reads the buffer every few milliseconds: waking it for each event would cost more than the event.
#[inline(always)]
fn submit(event: *mut Event) {
    helpers::ring_submit(event, BPF_RB_NO_WAKEUP.into());
}
