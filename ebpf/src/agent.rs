//! What the agent notes about itself, for whoever reads the node while it is down.

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgentRecord {
    /// Seconds since the epoch.
    pub started: u64,
    /// Of the last full sync; nanoseconds since the epoch, 0 is never.
    pub last_sync: u64,
    pub pid: u32,
    /// Bits of [`SET_RETVAL`] and so on: what the running kernel has.
    pub features: u32,
    /// UTF-8, filled up with NUL.
    pub node: [u8; 256],
    pub version: [u8; 32],
    /// The cgroup that the programs are attached to.
    pub cgroup: [u8; 512],
}

/// Kernel features, probed once at start.
pub const SET_RETVAL: u32 = 1;
pub const NETNS_COOKIE: u32 = 1 << 1;
pub const MPTCP_SOCK: u32 = 1 << 2;
pub const COMPARE_AND_SWAP: u32 = 1 << 3;
pub const SOCK_DESTROY: u32 = 1 << 4;
pub const KERNEL_SOCKETS: u32 = 1 << 5;

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for AgentRecord {}

const _: () = assert!(size_of::<AgentRecord>() == 824);
