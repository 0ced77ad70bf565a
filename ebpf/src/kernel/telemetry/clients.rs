//! Adds up how the connections of each client to each service ended.

use core::ptr;

use aya_ebpf::{
    Global,
    bindings::BPF_NOEXIST,
    btf_maps::{Array, LruHashMap},
    macros::btf_map,
};
use sockline_ebpf::{
    MMAPABLE,
    client::{CLIENT_ENTRIES, ClientCounts, ClientKey, ClientTotals},
    id::ServiceId,
    socket::About,
};

use super::socket::Outcome;
use crate::kernel::helpers;

#[btf_map]
static CLIENTS: LruHashMap<ClientKey, ClientCounts, { CLIENT_ENTRIES as usize }> =
    LruHashMap::new();

#[btf_map]
static CLIENT_TOTALS: Array<ClientTotals, 1, MMAPABLE> = Array::new();

static NONE: ClientCounts = ClientCounts::NONE;

/// 1: clients are counted.
#[unsafe(no_mangle)]
static COUNTS_CLIENTS: Global<u8> = Global::new(0);

/// `-EEXIST`
const EXISTS: i32 = -17;

#[inline(always)]
pub fn are_counted() -> bool {
    COUNTS_CLIENTS.load() != 0
}

/// Counts an end.
///
/// The kernel reuses an entry at once that it evicted, or that the agent removed because its service is gone. If that
/// happens between the look-up and the additions, another client has counts of this one. It evicts the least recently
/// used, so that takes a map that is far too small.
#[inline(always)]
pub fn ended(service: u32, about: About, outcome: &Outcome) {
    if !are_counted() {
        return;
    }
    let counts = of(&ClientKey::new(about.cgroup(), ServiceId(service)));
    if counts.is_null() {
        return;
    }
    // SAFETY: a live map value.
    unsafe {
        helpers::add(&raw mut (*counts).closed, 1);
        if outcome.sent != 0 {
            helpers::add(&raw mut (*counts).sent, outcome.sent);
        }
        if outcome.received != 0 {
            helpers::add(&raw mut (*counts).received, outcome.received);
        }
        if outcome.retransmitted != 0 {
            helpers::add(&raw mut (*counts).retransmitted, outcome.retransmitted.into());
        }
        if outcome.end.is_failure() {
            helpers::add(&raw mut (*counts).failed, 1);
        } else if outcome.sent != 0 && outcome.received == 0 {
            helpers::add(&raw mut (*counts).unanswered, 1);
        }
    }
}

/// The counts of a client, or null: see `balance::entry_of` for why this is no `Option`.
#[inline(always)]
fn of(key: &ClientKey) -> *mut ClientCounts {
    if let Some(counts) = CLIENTS.get_ptr_mut(key) {
        return counts;
    }
    make(key);
    CLIENTS.get_ptr_mut(key).unwrap_or(ptr::null_mut())
}

/// Makes the entry of a client. Another CPU may be first: its entry is as good, and must not be overwritten. One that
/// cannot be made counts as made, so that it counts as lost.
#[inline(always)]
fn make(key: &ClientKey) {
    // By reference: it is too large for the stack.
    let none: &ClientCounts = &NONE;
    if CLIENTS.insert(key, none, BPF_NOEXIST.into()) == Err(EXISTS) {
        return;
    }
    if let Some(totals) = CLIENT_TOTALS.get_ptr_mut(0) {
        // SAFETY: a live map value.
        unsafe { helpers::add(&raw mut (*totals).made, 1) };
    }
}
