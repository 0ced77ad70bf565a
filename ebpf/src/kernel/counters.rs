//! Counting, per service and CPU.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{PerCpuArray, PerCpuHashMap},
    macros::btf_map,
};
use sockline_ebpf::{
    NO_PREALLOC,
    counters::{COUNTED_SERVICES, Fault, MAX_FAULTS, REFUSALS, ServiceCounters},
    id::ServiceId,
};

use super::{balance::Chosen, helpers};

#[btf_map]
static SERVICE_COUNTERS: PerCpuHashMap<
    ServiceId,
    ServiceCounters,
    { COUNTED_SERVICES as usize },
    NO_PREALLOC,
> = PerCpuHashMap::new();

#[btf_map]
static FAULTS: PerCpuArray<u64, { MAX_FAULTS as usize }> = PerCpuArray::new();

#[inline(always)]
fn of(service: ServiceId) -> Option<*mut ServiceCounters> {
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(service) {
        return Some(counters);
    }
    // The first use of a service. Another program may be first, on another CPU or by preempting this one: its entry is as
    // good, and must not be overwritten.
    let _ = SERVICE_COUNTERS.insert(service, ServiceCounters::NONE, BPF_NOEXIST.into());
    let made = SERVICE_COUNTERS.get_ptr_mut(service);
    if made.is_none() {
        fault(Fault::CountersFull);
    }
    made
}

/// Counts a connection at the backend that was chosen for it.
#[inline(always)]
pub fn translated(chosen: &Chosen) {
    // SAFETY: a live map value.
    unsafe { helpers::add(&raw mut (*chosen.entry).counts.opened, 1) };
}

#[inline(always)]
pub fn refused(service: ServiceId, reason: u8) {
    if let Some(counters) = of(service) {
        let reason = usize::from(reason) & (REFUSALS - 1);
        // SAFETY: a live map value, and an index within it.
        unsafe { helpers::add((&raw mut (*counters).refused).cast::<u64>().add(reason), 1) };
    }
}

#[inline(always)]
pub fn bypassed(service: ServiceId) {
    if let Some(counters) = of(service) {
        // SAFETY: a live map value.
        unsafe { helpers::add(&raw mut (*counters).bypassed, 1) };
    }
}

#[inline(always)]
pub fn bypassed_stale(service: ServiceId) {
    if let Some(counters) = of(service) {
        // SAFETY: a live map value.
        unsafe { helpers::add(&raw mut (*counters).bypassed_stale, 1) };
    }
}

/// Counts a call that fails open; returns whether it is this service's first one on this CPU.
#[inline(always)]
pub fn failed_open(service: ServiceId) -> bool {
    let Some(counters) = of(service) else { return false };
    // SAFETY: a live map value.
    unsafe {
        let first = (*counters).failed_open == 0;
        helpers::add(&raw mut (*counters).failed_open, 1);
        first
    }
}

#[inline(always)]
pub fn fault(fault: Fault) {
    if let Some(counter) = FAULTS.get_ptr_mut(fault as u32) {
        // SAFETY: a live map value.
        unsafe { helpers::add(counter, 1) };
    }
}
