//! Network namespaces that called Services, and the cgroups of the first caller.

/// Namespaces that the map holds. The least recently used are dropped, and recorded again at their next
/// call. Memory for all of them, some 600 KB, is there from the start.
pub const NAMESPACES: u32 = 4096;

/// Levels of the cgroup hierarchy that are recorded: 1 and those below. A kubelet's pods are at 2 and 3, and
/// some deeper where a node is a container itself.
pub const LEVELS: usize = 8;

/// Unless nested namespaces are excluded, only calls in one of this number of kernel ticks are recorded.
pub const SAMPLED_TICKS: u64 = 64;

/// By the cookie of the namespace.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Namespace {
    /// The ids of the cgroups above the process that dialled first, and of its own, from level 1 on; 0
    /// where there is none.
    pub ancestors: [u64; LEVELS],
    /// 1: calls from here go through unchanged, where [`crate::agent_state::AgentState::exclude_nested`] is
    /// set. Written by the agent.
    pub excluded: u64,
}

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Namespace {}

const _: () = assert!(size_of::<Namespace>() == 72);
