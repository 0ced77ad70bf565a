//! Which network namespaces dial services, for the agent to find those that were made inside pods.

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::LruHashMap, macros::btf_map};
use sockline_ebpf::namespaces::{LEVELS, NAMESPACES, Namespace, SAMPLED_TICKS};

use super::helpers;

#[btf_map]
static NETWORK_NAMESPACES: LruHashMap<u64, Namespace, { NAMESPACES as usize }> = LruHashMap::new();

/// Records the namespace if this is one of the ticks of the sample. The time is known already, so all other calls pay
/// one comparison.
#[inline(always)]
pub fn sample(jiffies: u64, netns: impl FnOnce() -> u64) {
    if jiffies & (SAMPLED_TICKS - 1) == 0 {
        record_and_is_excluded(netns());
    }
}

/// Records the namespace, and returns whether the agent excluded it as one that was created inside a pod. One that is
/// seen for the first time is not excluded: a new pod does not wait for the agent.
#[inline(never)]
pub fn record_and_is_excluded(netns: u64) -> bool {
    if let Some(known) = NETWORK_NAMESPACES.get_ptr_mut(netns) {
        // SAFETY: a live map value, which the agent writes: hence volatile. If it is reused for another
        // namespace meanwhile, this one call may be treated as one from there.
        return unsafe { (&raw const (*known).excluded).read_volatile() } != 0;
    }
    let mut ancestors = [0; LEVELS];
    for (level, ancestor) in (1..).zip(&mut ancestors) {
        *ancestor = helpers::ancestor_cgroup(level);
    }
    // Another CPU may be first: what it wrote is as good.
    let _ =
        NETWORK_NAMESPACES.insert(netns, Namespace { ancestors, excluded: 0 }, BPF_NOEXIST.into());
    false
}
