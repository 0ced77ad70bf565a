//! What programs of other layouts had counted.

use crate::{counters::ServiceCounters, telemetry::ServiceStats};

/// How many folders [`CarriedCounts::sources`] has room for.
pub const CARRIED_SOURCES: usize = 16;

/// Of a service port: what programs of other layouts had counted before the agent took over from them. No program reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CarriedCounts {
    /// `of_removed` has all connections, `opened` too.
    pub stats: ServiceStats,
    pub calls: ServiceCounters,
    /// In the entry of [`ServiceId::NONE`](crate::id::ServiceId::NONE), which has no counts: the ids of the `BACKENDS` maps that
    /// all of this comes from, so that an agent that continues after a kill adds nothing twice.
    pub sources: [u32; CARRIED_SOURCES],
}

impl CarriedCounts {
    pub const NONE: Self = Self {
        stats: ServiceStats::NONE,
        calls: ServiceCounters::NONE,
        sources: [0; CARRIED_SOURCES],
    };

    pub fn add(&mut self, other: &Self) {
        self.stats.add(&other.stats);
        self.calls.add(&other.calls);
    }
}

// SAFETY: integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for CarriedCounts {}
const _: () = assert!(size_of::<CarriedCounts>() == 672 + 56 + 4 * CARRIED_SOURCES);
