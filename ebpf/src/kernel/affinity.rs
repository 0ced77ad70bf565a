//! Session affinity ClientIP: a client keeps its backend until it was idle for the timeout.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use sockline_ebpf::{
    counters::Fault,
    frontend::Frontend,
    socket::{AFFINITY_ENTRIES, Affinity, AffinityKey},
};

use super::{
    balance::{self, Chosen},
    call::{Call, Family},
    counters, helpers,
};

#[btf_map]
static AFFINITY: LruHashMap<AffinityKey, Affinity, { AFFINITY_ENTRIES as usize }> =
    LruHashMap::new();

const NANOSECONDS: u64 = 1_000_000_000;

/// The client's backend, or a new one that it keeps from now on.
#[inline(always)]
pub fn choose<F: Family>(call: &Call<'_, F>, frontend: &Frontend) -> Option<Chosen> {
    let key = AffinityKey {
        netns: call.netns(),
        service: frontend.service,
        family: u32::from(frontend.node) << 16 | if frontend.key.address.is_ipv4() { 4 } else { 6 },
    };
    let now = helpers::now();
    if let Some(kept) = AFFINITY.get_ptr_mut(key) {
        // SAFETY: the entry stays memory of this map until the program ends; if it is reused
        // meanwhile, the owner check in `again` notices.
        let (backend, generation, last_use) =
            unsafe { ((*kept).backend, (*kept).generation, (*kept).last_use) };
        let timeout = u64::from(frontend.affinity_seconds) * NANOSECONDS;
        if now.wrapping_sub(last_use) < timeout
            && let Some(chosen) = balance::again(backend, generation, frontend)
        {
            // SAFETY: as above.
            unsafe { (*kept).last_use = now };
            return Some(chosen);
        }
    }
    let chosen = balance::draw(frontend)?;
    let value =
        Affinity { backend: chosen.id, generation: chosen.backend().generation, last_use: now };
    if AFFINITY.insert(key, value, 0).is_err() {
        counters::fault(Fault::AffinityFull);
    }
    Some(chosen)
}
