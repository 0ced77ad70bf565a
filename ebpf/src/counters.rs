//! What the programs count.

use crate::{byte_enum::byte_enum, frontend::Reason};

/// Per service and CPU, for calls that get no backend; the entry is made at the first one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceCounters {
    /// Calls refused, by [`Reason`].
    pub refused: [u64; REFUSALS],
    /// Calls bypassed because the frontend or the caller is excluded.
    pub bypassed: u64,
    /// Calls that went through unchanged because no backend could be read (fail open).
    pub failed_open: u64,
    /// Calls bypassed because no agent has renewed the deadline
    /// ([`crate::agent_state::AgentState::fail_open_deadline`]).
    pub bypassed_stale: u64,
}

impl ServiceCounters {
    pub const NONE: Self =
        Self { refused: [0; REFUSALS], bypassed: 0, failed_open: 0, bypassed_stale: 0 };

    /// Adds those of another CPU.
    pub fn add(&mut self, other: &Self) {
        let Self { refused, bypassed, failed_open, bypassed_stale } = self;
        refused.iter_mut().zip(other.refused).for_each(|(sum, one)| *sum += one);
        *bypassed += other.bypassed;
        *failed_open += other.failed_open;
        *bypassed_stale += other.bypassed_stale;
    }
}

/// The reasons of refusals are the first of [`Reason`].
pub const REFUSALS: usize = 4;

byte_enum! {
    /// Things that should not happen, counted per CPU over all services.
    pub enum Fault {
        /// A frontend or backend entry changed while it was read; each failed look-up counts.
        StaleEntry = 0,
        /// The second look-up failed too: the call went through unchanged.
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
}

const _: () = {
    let mut index = 0;
    while index < Fault::ALL.len() {
        assert!(Fault::ALL[index] as usize == index, "in the order of their numbers");
        index += 1;
    }
    assert!(Fault::ALL.len() <= MAX_FAULTS as usize);
    assert!((Reason::NoLocalEndpoints as usize) < REFUSALS && REFUSALS.is_power_of_two());
};

/// Entries of the faults array.
pub const MAX_FAULTS: u32 = 8;

/// Entries that the counters hash may have: one per service port that refused or bypassed a call, or
/// failed open. Entries take memory when used; the table of buckets takes 2 MiB (16 bytes each).
pub const COUNTED_SERVICES: u32 = 131_072;

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceCounters {}

const _: () = assert!(size_of::<ServiceCounters>() == 56);
