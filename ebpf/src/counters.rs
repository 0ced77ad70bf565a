//! What the programs count.

/// Per service and CPU, for calls that get no backend; the entry is made at the first one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceCounters {
    /// Calls refused, by [`crate::frontend::Frontend::reason`].
    pub refused: [u64; REASONS],
    /// Calls bypassed because the frontend or the caller is excluded.
    pub bypassed: u64,
    /// Calls that went through unchanged because no backend could be read (fail open).
    pub failed_open: u64,
    /// Calls bypassed because no agent has renewed the deadline
    /// ([`crate::agent_state::AgentState::fail_open_deadline`]).
    pub bypassed_stale: u64,
}

/// Reasons as they are numbered in the maps. Only the first [`REASONS`] can be those of a refusal.
pub const REASONS: usize = 4;
pub const NO_ENDPOINTS: u8 = 0;
pub const NO_LOCAL_ENDPOINTS: u8 = 1;
pub const SOURCE_RANGES: u8 = 2;
pub const PROTOCOL: u8 = 3;
pub const REDIRECT_DISABLED: u8 = 4;
pub const TOO_LARGE: u8 = 5;

/// Things that should not happen, counted per CPU over all services.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Fault {
    /// A frontend or backend entry belonged to another service; the second look-up was right.
    StaleEntry = 0,
    /// The second look-up was wrong too: the call went through unchanged.
    OwnerMismatch = 1,
    /// A socket's translation could not be kept: its peer name will be the backend's.
    NotRemembered = 2,
    /// A client's affinity could not be kept.
    AffinityFull = 3,
    /// A service's counters could not be made: its calls are not counted.
    CountersFull = 4,
    /// A socket's translation was not kept because its cgroup, or all together, have as many as they
    /// may: its peer name will be the backend's, and it is not closed when that is gone.
    SocketLimit = 5,
}

impl Fault {
    pub const ALL: [Self; 6] = [
        Self::StaleEntry,
        Self::OwnerMismatch,
        Self::NotRemembered,
        Self::AffinityFull,
        Self::CountersFull,
        Self::SocketLimit,
    ];
}

const _: () = {
    let mut index = 0;
    while index < Fault::ALL.len() {
        assert!(Fault::ALL[index] as usize == index, "in the order of their numbers");
        index += 1;
    }
    assert!(Fault::ALL.len() <= MAX_FAULTS as usize);
};

/// Entries of the faults array.
pub const MAX_FAULTS: u32 = 8;

/// Entries that the counters hash may have: one per service port that refused or bypassed a call, or
/// failed open. What is there takes memory; that there may be so many takes 2 MiB (16 bytes each).
pub const COUNTED_SERVICES: u32 = 131_072;

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceCounters {}

const _: () = assert!(size_of::<ServiceCounters>() == 56);
