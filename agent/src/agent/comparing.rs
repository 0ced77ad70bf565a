//! When the kernel's maps are compared with what they should hold: all of them once in an interval,
//! a few thousand entries at a time, so that no change waits for long.

use std::time::{Duration, Instant};

use crate::dataplane::{Comparison, Dataplane, DataplaneError, Drift};

/// Entries that are compared in one go: some two milliseconds.
const STEP: usize = 4096;

pub struct Comparing {
    interval: Duration,
    comparison: Comparison,
    due: Instant,
}

impl Comparing {
    /// The first comparison begins after one interval: what was just written needs none.
    pub fn new(interval: Duration) -> Self {
        Self { interval, comparison: Comparison::default(), due: Instant::now() + interval }
    }

    /// When [`Self::go_on`] is to be called.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Compares some more, and mends what differs.
    pub fn go_on(&mut self, dataplane: &mut Dataplane) -> Result<Drift, DataplaneError> {
        let steps = dataplane.entries_to_compare() / STEP + 1;
        self.due = Instant::now() + self.interval / u32::try_from(steps).unwrap_or(u32::MAX);
        dataplane.repair_some(&mut self.comparison, STEP).map(|(drift, _)| drift)
    }
}
