//! The agent's record of itself, for reading the node while the agent is down.

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgentRecord {
    /// Seconds since the epoch.
    pub started: u64,
    /// Of the last full sync; nanoseconds since the epoch, 0 is never.
    pub last_sync: u64,
    pub pid: u32,
    /// What the running kernel has.
    pub features: FeatureSet,
    /// UTF-8, filled up with NUL.
    pub node: [u8; 256],
    pub version: [u8; 32],
    /// The cgroup that the programs are attached to.
    pub cgroup: [u8; 512],
}

bitflags::bitflags! {
    /// Kernel features that have a fallback. The agent's table of features says what each is.
    #[repr(transparent)]
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct FeatureSet: u32 {
        const SET_RETVAL = 1;
        const NETNS_COOKIE = 1 << 1;
        const MPTCP_SOCK = 1 << 2;
        const COMPARE_AND_SWAP = 1 << 3;
        const SOCK_DESTROY = 1 << 4;
        const KERNEL_SOCKETS = 1 << 5;
        const SOCK_ITERATOR = 1 << 6;
        const SOCKET_FIELDS = 1 << 7;
    }
}

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for AgentRecord {}

const _: () = assert!(size_of::<AgentRecord>() == 824);
