//! Closes sockets whose backend is gone, so that their applications connect again: UDP sockets at once, TCP
//! connections when their service says so.
//!
//! Called by the control loop. [`Termination`] knows when a pass is due. [`pass`] finds sockets and has the helper
//! process close them: [`decide`] chooses them from the maps and the objects (pure), [`throttle`] limits the processor
//! time of passes. [`process`] restarts the helper, as [`backoff`] allows. [`stats`] publishes results (log, metrics,
//! status).
//!
//! Invariants: one pass at a time, and the control loop never waits for the helper. Nothing is closed while the
//! source is incomplete. A socket is closed by its cookie, never by an address alone.

mod backoff;
mod decide;
mod pass;
mod process;
mod stats;
mod throttle;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sockline_ebpf::frontend::FrontendKey;
use tokio::task::JoinHandle;

pub use self::pass::Ended;
use self::{
    backoff::RestartBackoff, decide::Decider, pass::Job, process::Process, stats::Stats,
    throttle::Throttle,
};
use crate::{
    dataplane::{Dataplane, SocketTable, SyncReport},
    helper::Helper,
    model::index::Index,
    status::Shared,
    telemetry::Metrics,
};

/// Delay of a pass after a change: collects changes that arrive together, and lets programs end that
/// chose a backend just before it was removed.
const PASS_DELAY: Duration = Duration::from_millis(100);

/// Schedules passes and records their results.
pub struct Termination {
    /// `None` if it could not be started.
    helper: Option<Helper>,
    process: Process,
    backoff: RestartBackoff,
    /// The kernel has a method that closes sockets.
    is_possible: bool,
    table: SocketTable,
    decider: Decider,
    due: Option<Instant>,
    throttle: Throttle,
    /// When the first backend was removed since the last pass.
    first_removal: Option<Instant>,
    job: Option<JoinHandle<Job>>,
    stats: Stats,
}

impl Termination {
    /// Without a helper, or without a method of the kernel, nothing is closed. A pass runs at least once in
    /// `reconcile_interval`.
    pub fn new(
        helper: Option<Helper>,
        reconcile_interval: Duration,
        dataplane: &Dataplane,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let now = Instant::now();
        Self {
            stats: Stats::new(helper.as_ref(), shared, metrics),
            helper,
            process: Process::Up,
            backoff: RestartBackoff::default(),
            is_possible: dataplane.features().termination_method().is_some(),
            table: dataplane.socket_table().clone(),
            decider: Decider::default(),
            // For backends that were removed while no agent ran.
            due: Some(now),
            throttle: Throttle::new(reconcile_interval, now),
            first_removal: None,
            job: None,
        }
    }

    /// Records the report of a sync.
    pub fn synced(&mut self, report: &SyncReport, index: &mut Index) {
        let deleted_annotations = index.take_deleted_annotations();
        for removed in report.removed.iter().filter(|removed| decide::is_tcp(&removed.port)) {
            let service = &removed.port.service;
            let deleted = deleted_annotations.iter().find(|(deleted, _)| deleted == service);
            let deleted = deleted.map(|(_, after)| *after);
            if let Some(after) = deleted.or_else(|| index.close_on_removal(service)) {
                let at = |key: &FrontendKey| (key.address.into(), u16::from_be(key.port));
                self.decider.removed(removed.id, removed.keys.iter().map(at), after);
            }
        }
        if report.backends_removed > 0 {
            self.first_removal.get_or_insert_with(Instant::now);
            self.schedule(PASS_DELAY);
        } else if self.decider.has_spared() {
            // An endpoint that was not in the plan but still served may have stopped.
            self.schedule(PASS_DELAY);
        }
    }

    /// Schedules a pass after `delay`, or when the throttle allows it.
    pub fn schedule(&mut self, delay: Duration) {
        let at = (Instant::now() + delay).max(self.throttle.pass());
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When to call [`Self::pass`].
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        // One pass at a time.
        let can = self.is_possible && self.helper.is_some() && self.process == Process::Up;
        self.due.filter(|_| can && self.job.is_none())
    }
}
