//! Excluded callers: pods whose connections Sockline does not change.

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use sockline_ebpf::{
    NO_PREALLOC,
    exclusion::{CGROUPS, MAX_LEVEL},
};

use super::helpers;

/// One word: the levels of the hierarchy at which there are entries in `EXCLUDED`, one bit for
/// each. As long as no pod is excluded it is 0, and reading it is all that a call pays.
#[btf_map]
static EXCLUDED_LEVELS: Array<u32, 1> = Array::new();

/// The ids of their cgroups, with the level of each as a bit.
#[btf_map]
static EXCLUDED: HashMap<u64, u32, { CGROUPS as usize }, NO_PREALLOC> = HashMap::new();

/// Whether the calling process is in, or anywhere below, one of the cgroups.
#[inline(always)]
pub fn is_caller() -> bool {
    let Some(&levels) = EXCLUDED_LEVELS.get(0) else { return false };
    levels != 0 && is_below_any(levels)
}

/// Out of line: it is for the few.
#[inline(never)]
fn is_below_any(levels: u32) -> bool {
    for level in 1..=MAX_LEVEL {
        if levels & (1 << level) == 0 {
            continue;
        }
        let ancestor = helpers::ancestor_cgroup(level);
        // The caller's own cgroup is above this level.
        if ancestor == 0 {
            return false;
        }
        // SAFETY: only whether there is an entry is asked.
        if unsafe { EXCLUDED.get(ancestor) }.is_some() {
            return true;
        }
    }
    false
}
