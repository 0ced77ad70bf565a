//! Adds up how connections ended: at the backend while its entry belongs to it, else at the service.

use core::{mem::offset_of, ptr};

use aya_ebpf::{Global, bindings::BPF_NOEXIST, btf_maps::PerCpuHashMap, macros::btf_map};
use sockline_ebpf::{
    NO_PREALLOC,
    counters::{COUNTED_SERVICES, Fault},
    id::{BackendKey, ServiceId},
    partly_counted::Part,
    telemetry::{
        ConnectionCounts, End, LIFETIME_SHIFT, ServiceStats, lifetime_bucket, round_trip_bucket,
    },
    traffic_class::TrafficClass,
};

use super::{
    partly_counted::rest,
    socket::{self, Outcome},
};
use crate::kernel::{
    balance::{self, Chosen},
    counters, helpers,
};

#[btf_map]
static SERVICE_STATS: PerCpuHashMap<
    ServiceId,
    ServiceStats,
    { COUNTED_SERVICES as usize },
    NO_PREALLOC,
> = PerCpuHashMap::new();

static NONE: ServiceStats = ServiceStats::NONE;

/// Nanoseconds of a jiffy.
#[unsafe(no_mangle)]
static TICK_NANOSECONDS: Global<u64> = Global::new(0);

/// Counts a connection whose end will not be seen, at the backend that was just chosen for it.
#[inline(always)]
pub fn untracked(chosen: &Chosen) {
    // SAFETY: a live map value.
    unsafe { helpers::add(&raw mut (*chosen.entry).counts.untracked, 1) };
}

/// Counts an end. The class is a byte of [`TrafficClass`]; `counted` says what the agent has counted of the connection while
/// it was open.
#[inline(always)]
pub fn ended(
    backend: BackendKey,
    service: u32,
    since: u64,
    class: u8,
    outcome: &Outcome,
    counted: impl Fn() -> *const Part,
) {
    let service = ServiceId(service);
    let entry = balance::entry_of(backend);
    let stats = if socket::are_read() || entry.is_null() { of(service) } else { ptr::null_mut() };
    if !entry.is_null() {
        // SAFETY: a live map value.
        unsafe { add(&raw mut (*entry).counts, outcome, counted()) };
    } else if !stats.is_null() {
        const MASK: usize = TrafficClass::MASK as usize;
        // SAFETY: a live map value, which has as many as there are classes.
        unsafe {
            let first = (&raw mut (*stats).of_removed).cast::<ConnectionCounts>();
            add(helpers::element_at::<_, MASK>(first, class.into()), outcome, counted());
        }
    }
    let place = outcome.end as usize;
    if place < End::ESTABLISHED && !stats.is_null() {
        let age = (helpers::jiffies() - since) * TICK_NANOSECONDS.load();
        let lifetime = age >> LIFETIME_SHIFT;
        // SAFETY: a live map value, and indices within it.
        unsafe {
            helpers::add_at::<7>((&raw mut (*stats).closed).cast(), place);
            let lifetimes = &raw mut (*stats).lifetimes;
            helpers::add(&raw mut (*lifetimes).sum, lifetime);
            let bucket = lifetime_bucket(lifetime);
            helpers::add_at::<15>((&raw mut (*lifetimes).buckets).cast(), bucket);
            if outcome.round_trip != 0 {
                let round_trips = &raw mut (*stats).round_trips;
                helpers::add(&raw mut (*round_trips).sum, outcome.round_trip.into());
                let bucket = round_trip_bucket(outcome.round_trip);
                helpers::add_at::<31>((&raw mut (*round_trips).buckets).cast(), bucket);
            }
        }
    }
}

/// # Safety
///
/// `counts` must point into a live map value, and so must `counted` if it is not null.
#[inline(always)]
unsafe fn add(counts: *mut ConnectionCounts, outcome: &Outcome, counted: *const Part) {
    // SAFETY: the caller's promise, and an index within it.
    unsafe {
        if outcome.end as u32 == End::Untracked as u32 {
            helpers::add(&raw mut (*counts).untracked, 1);
            return;
        }
        helpers::add(&raw mut (*counts).closed, 1);
        let sent = rest::<{ offset_of!(Part, sent) }>(outcome.sent, counted);
        if sent != 0 {
            helpers::add(&raw mut (*counts).sent, sent);
        }
        let received = rest::<{ offset_of!(Part, received) }>(outcome.received, counted);
        if received != 0 {
            helpers::add(&raw mut (*counts).received, received);
        }
        let all = outcome.retransmitted.into();
        let retransmitted = rest::<{ offset_of!(Part, retransmitted) }>(all, counted);
        if retransmitted != 0 {
            helpers::add(&raw mut (*counts).retransmitted, retransmitted);
        }
        let reason = (outcome.end as usize).wrapping_sub(End::ESTABLISHED);
        if reason < End::FAILURES {
            helpers::add_at::<3>((&raw mut (*counts).failed).cast(), reason);
        } else if outcome.sent != 0 && outcome.received == 0 {
            helpers::add(&raw mut (*counts).unanswered, 1);
        }
    }
}

#[inline(always)]
fn of(service: ServiceId) -> *mut ServiceStats {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        return stats;
    }
    // The first end of the service. Another program may be first, on another CPU or by preempting this one: its entry is
    // as good, and must not be overwritten.
    // By reference: it is too large for the stack.
    let none: &ServiceStats = &NONE;
    let _ = SERVICE_STATS.insert(service, none, BPF_NOEXIST.into());
    if let Some(made) = SERVICE_STATS.get_ptr_mut(service) {
        return made;
    }
    counters::fault(Fault::CountersFull);
    ptr::null_mut()
}
