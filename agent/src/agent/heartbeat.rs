//! Tells the programs that this agent lives, so that they do not let all calls go through unchanged.

use std::time::{Duration, Instant};

use crate::dataplane::AgentState;

/// How often the control loop turns at least.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// How long before the deadline what only the agent before knew of is given up: two turns.
const MARGIN: Duration = Duration::from_secs(2);

/// Written by the control loop itself: when that is stuck, nothing follows the cluster, however alive
/// the process is.
pub struct Heartbeat {
    state: AgentState,
    /// The maps are what this agent wrote. Until its first full sync they are as old as the last sign
    /// of life of the agent before, and kube-proxy knows better.
    synced: bool,
    started: Instant,
}

impl Heartbeat {
    pub fn new(state: AgentState) -> Self {
        Self { state, synced: false, started: Instant::now() }
    }

    /// Says that the kernel has what the first plan has, as far as it fits, and serves it: nothing is
    /// left that only an earlier agent knew of.
    pub fn begin(&mut self) {
        if !self.synced {
            self.synced = true;
            self.beat();
        }
    }

    /// Whether the last sign of life of the agent before is as old as the programs tolerate, or almost,
    /// and [`Self::begin`] was not called. What only that agent knew of must not be served any longer
    /// then. If nothing is left of it, this agent can begin in time, and nothing else is bypassed.
    pub fn is_overdue(&self) -> bool {
        let Some(after) = self.state.fail_open_after() else { return false };
        // The programs of another layout have a deadline of their own, which is no later than this.
        let own = self.started.elapsed() + MARGIN >= after;
        !self.synced && (own || self.state.is_over_within(MARGIN))
    }

    pub fn beat(&self) {
        if self.synced && self.state.renew() {
            tracing::info!("the kernel has what the cluster has: calls are no longer bypassed");
        }
    }
}
