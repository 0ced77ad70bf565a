//! Renews the deadline after which the kernel programs bypass all calls because no agent runs.

use std::time::{Duration, Instant};

use crate::dataplane::AgentState;

/// The control loop turns at least this often.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// State that only an earlier agent confirmed is released this long before the deadline: two turns.
const MARGIN: Duration = Duration::from_secs(2);

/// The control loop itself renews the deadline: while the loop is stuck, the maps do not follow the
/// cluster, even if the process runs.
pub struct Heartbeat {
    state: AgentState,
    /// This agent wrote the maps. Until its first full sync they are as old as the last renewal by the
    /// earlier agent, and kube-proxy is more up to date.
    is_synced: bool,
    /// [`MARGIN`] before the deadline that the earlier agent set.
    expires: Option<Instant>,
}

impl Heartbeat {
    pub fn new(state: AgentState) -> Self {
        let expires = state.fail_open_after().map(|after| {
            // Programs of another layout have their own deadline, which is not later than this.
            let left = state.left().map_or(after, |left| left.min(after));
            Instant::now() + left.saturating_sub(MARGIN)
        });
        Self { state, is_synced: false, expires }
    }

    /// Starts renewing: the kernel serves the first plan, as far as it fits. The only services that it
    /// still serves as only an earlier agent confirmed are retained ones.
    pub fn start(&mut self) {
        if !self.is_synced {
            self.is_synced = true;
            self.renew();
        }
    }

    /// Whether the deadline that the earlier agent set is less than [`MARGIN`] away. State that only that
    /// agent confirmed must be released then: the renewals of this agent, since [`Self::start`], do not
    /// confirm it. Without that state, this agent can start in time, and no other call is bypassed.
    pub fn is_overdue(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Instant::now())
    }

    pub fn renew(&self) {
        if self.is_synced && self.state.renew() {
            tracing::info!("the kernel has what the cluster has: calls are no longer bypassed");
        }
    }
}
