//! Session affinity ClientIP: a client keeps its backend until it was idle for the timeout.

use core::ptr;

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::LruHashMap, macros::btf_map};
use sockline_ebpf::{
    counters::Fault,
    frontend::Frontend,
    socket::{AFFINITY_ENTRIES, Affinity, AffinityKey, Choice},
};

use super::{
    balance::{self, Chosen},
    counters, helpers,
    hook_context::{Family, HookContext},
};

#[btf_map]
static AFFINITY: LruHashMap<AffinityKey, Affinity, { AFFINITY_ENTRIES as usize }> =
    LruHashMap::new();

const NANOSECONDS: u64 = 1_000_000_000;
/// `-EEXIST`
const EXISTS: i32 = -17;

/// The client's backend, or a new one that it keeps from now on.
///
/// Calls of one client may be here at the same time. What one of them has written counts for all: an
/// entry is only ever made where there is none, and changed from what it was when it was read.
#[inline(always)]
pub fn choose<F: Family>(hook: &HookContext<'_, F>, frontend: &Frontend) -> Option<Chosen> {
    let key = AffinityKey {
        netns: hook.netns(),
        service: frontend.service,
        family: u32::from(frontend.node) << 16 | if frontend.key.address.is_ipv4() { 4 } else { 6 },
    };
    if let Some((entry, seen)) = find(&key) {
        // After the entry was read, or it could seem to be used later than now.
        let now = helpers::now();
        if seen.idle(now) < u64::from(frontend.affinity_seconds) * NANOSECONDS
            && let Some(chosen) = kept(seen, frontend)
        {
            let used = seen.used(now);
            if used != seen {
                // If it has changed meanwhile, it is as new.
                let _ = replace_choice(entry, seen, used);
            }
            return Some(chosen);
        }
        let chosen = balance::select_weighted(frontend)?;
        return match replace_choice(entry, seen, choice(&chosen, now)) {
            Ok(()) => Some(chosen),
            Err(faster) => kept(faster, frontend).or(Some(chosen)),
        };
    }
    let chosen = balance::select_weighted(frontend)?;
    let value = Affinity { key, choice: choice(&chosen, helpers::now()) };
    match AFFINITY.insert(key, value, BPF_NOEXIST.into()) {
        Ok(()) => {}
        Err(EXISTS) => {
            let faster = find(&key).and_then(|(_, faster)| kept(faster, frontend));
            return faster.or(Some(chosen));
        }
        Err(_) => counters::fault(Fault::AffinityFull),
    }
    Some(chosen)
}

/// The client's entry, and what is in it.
#[inline(always)]
fn find(key: &AffinityKey) -> Option<(*mut u64, Choice)> {
    let entry = AFFINITY.get_ptr_mut(key)?;
    // SAFETY: the entry stays memory of this map until the program ends. It may be given to another
    // client meanwhile: then its key, which is written first, differs.
    let (choice, owner) = unsafe {
        let choice = (&raw mut (*entry).choice).cast::<u64>();
        (choice, &raw const (*entry).key)
    };
    // SAFETY: as above; others write these words, hence volatile.
    let (seen, owner) = unsafe { (helpers::load_acquire(choice), ptr::read_volatile(owner)) };
    (owner == *key).then_some((choice, Choice(seen)))
}

#[inline(always)]
fn kept(choice: Choice, frontend: &Frontend) -> Option<Chosen> {
    balance::revalidate(choice.backend(), |generation| choice.is_of(generation), frontend)
}

#[inline(always)]
fn choice(chosen: &Chosen, now: u64) -> Choice {
    Choice::new(chosen.id, chosen.generation, now)
}

/// Changes a choice if it still is what was seen; else returns what it is.
#[inline(always)]
fn replace_choice(entry: *mut u64, seen: Choice, new: Choice) -> Result<(), Choice> {
    // SAFETY: a live map value, see `find`.
    unsafe { helpers::compare_exchange(entry, seen.0, new.0) }.map_err(Choice)
}
