//! Tells the programs that this agent lives, so that they do not let all calls go through unchanged.

use std::time::Duration;

use crate::dataplane::AgentState;

/// How often the control loop turns at least.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Written by the control loop itself: when that is stuck, nothing follows the cluster, however alive
/// the process is.
pub struct Heartbeat {
    state: AgentState,
    /// The maps are what this agent wrote. Until its first full sync they are as old as the last sign
    /// of life of the agent before, and kube-proxy knows better.
    synced: bool,
}

impl Heartbeat {
    pub const fn new(state: AgentState) -> Self {
        Self { state, synced: false }
    }

    /// Says that the kernel has what the first plan has, as far as it fits, and serves it: nothing is
    /// left that only an earlier agent knew of.
    pub fn begin(&mut self) {
        if !self.synced {
            self.synced = true;
            self.beat();
        }
    }

    pub fn beat(&self) {
        if self.synced && self.state.renew() {
            tracing::info!("the kernel has what the cluster has: calls are no longer bypassed");
        }
    }
}
