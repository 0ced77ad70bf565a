//! Closes sockets whose backend is gone, so that their applications connect again: UDP sockets at once, TCP
//! connections when their service says so.
//!
//! Called by the control loop. [`decide`] chooses sockets from the maps and the objects (pure), the helper
//! process closes them, [`stats`] reports (log, metrics, status), [`throttle`] limits the processor time of
//! passes, [`backoff`] delays restarts of the helper.
//!
//! Invariants: one pass at a time, never in the control loop's thread. Nothing is closed while the source is
//! incomplete. A socket is closed by its cookie, never by an address alone.

mod backoff;
mod decide;
mod stats;
mod throttle;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sockline_ebpf::frontend::FrontendKey;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use self::{
    backoff::RestartBackoff,
    decide::{Decider, Target},
    stats::Stats,
    throttle::Throttle,
};
use crate::{
    dataplane::{Dataplane, SocketTable, StaleSocket, SyncReport},
    helper::{Coverage, Helper, HelperError, Outcome, State},
    model::index::Index,
    status::Shared,
    telemetry::Metrics,
};

/// How long after a change: what changes together is looked at together, and programs that chose a
/// backend just before it left have ended.
const AFTER: Duration = Duration::from_millis(100);
/// When to look again for sockets that were not as expected.
const AGAIN: Duration = Duration::from_secs(1);

/// When passes are, and what came of them.
pub struct Termination {
    /// `None` when none was started.
    helper: Option<Helper>,
    /// It is away: when to start it again, `None` if nobody can.
    away: Option<Option<Instant>>,
    backoff: RestartBackoff,
    /// The kernel has a method that closes sockets.
    is_possible: bool,
    table: SocketTable,
    decider: Decider,
    due: Option<Instant>,
    throttle: Throttle,
    /// Since when backends left that no pass has seen.
    left: Option<Instant>,
    job: Option<JoinHandle<Job>>,
    stats: Stats,
}

/// What the helper was asked to close, and its answer.
struct Job {
    targets: Vec<Target>,
    closed: Result<(Vec<Outcome>, Coverage), HelperError>,
    /// How long that took.
    took: Duration,
    cost: Cost,
}

/// What a pass has cost so far.
#[derive(Debug, Clone, Copy)]
struct Cost {
    began: Instant,
    /// Of a processor.
    spent: Duration,
}

/// The end of a job.
pub struct Ended(Result<Job, JoinError>);

impl Termination {
    /// Without a helper that has a method, nothing is ever closed. Looks again once in `every`.
    pub fn new(
        helper: Option<Helper>,
        every: Duration,
        dataplane: &Dataplane,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let now = Instant::now();
        Self {
            stats: Stats::new(helper.as_ref(), shared, metrics),
            helper,
            away: None,
            backoff: RestartBackoff::default(),
            is_possible: dataplane.features().closing().is_some(),
            table: dataplane.socket_table().clone(),
            decider: Decider::default(),
            // What was removed while no agent ran.
            due: Some(now),
            throttle: Throttle::new(every, now),
            left: None,
            job: None,
        }
    }

    /// Takes in what a sync did.
    pub fn synced(&mut self, report: &SyncReport, index: &mut Index) {
        let last_words = index.take_last_words();
        for (key, addresses) in report.removed.iter().filter(|(key, _)| decide::is_tcp(key)) {
            let said = last_words.iter().find(|(service, _)| *service == key.service);
            let said = said.map(|(_, after)| *after);
            if let Some(after) = said.or_else(|| index.close_on_removal(&key.service)) {
                let at = |key: &FrontendKey| (key.address.into(), u16::from_be(key.port));
                self.decider.removed(addresses.iter().map(at), after);
            }
        }
        if report.backends_removed > 0 {
            self.left.get_or_insert_with(Instant::now);
            self.within(AFTER);
        } else if self.decider.has_spared() {
            // An endpoint that was out of the plan, and served, may do so no more.
            self.within(AFTER);
        }
    }

    /// Asks for a pass.
    pub fn within(&mut self, time: Duration) {
        let at = (Instant::now() + time).max(self.throttle.pass());
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When [`Self::pass`] is to be called.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        // One at a time.
        let can = self.is_possible && self.helper.is_some() && self.away.is_none();
        self.due.filter(|_| can && self.job.is_none())
    }

    /// Looks for sockets to close, and has them closed.
    pub fn pass(&mut self, dataplane: &Dataplane, index: &Index) {
        self.due = None;
        // As long as the source is incomplete, an endpoint may only be out of sight.
        if !(index.synced() && index.complete()) {
            return self.within(AGAIN);
        }
        let now = Instant::now();
        let (sockets, all) = dataplane.stale_sockets();
        if let Err(error) = all {
            self.stats.failed(&format!("{:#}", anyhow::Error::from(error)));
        }
        let owners = dataplane.owners(&sockets);
        let left = self.left.take().unwrap_or(now);
        let decision = self.decider.decide(&sockets, &owners, index, left, now);
        if let Some(next) = decision.next {
            self.within(next.saturating_duration_since(Instant::now()));
        }
        let cost = Cost { began: now, spent: now.elapsed() };
        // What could not be looked into may be there by now: a warning shall not outlive its cause.
        let rechecks = self.stats.has_unseen() && self.throttle.rechecks(now);
        if decision.targets.is_empty() && !rechecks {
            self.throttle.passed(Instant::now(), cost.spent);
            return self.passed(cost);
        }
        let (targets, table) = (decision.targets, self.table.clone());
        if let Some(helper) = self.helper.clone() {
            self.job = Some(spawn_blocking(move || {
                let began = Instant::now();
                let closed = close(&helper, &targets, &table);
                Job { targets, closed, took: began.elapsed(), cost }
            }));
        }
    }

    /// Returns when the helper has answered; never if it was not asked.
    pub async fn ended(&mut self) -> Ended {
        let Some(job) = &mut self.job else { return std::future::pending().await };
        let ended = job.await;
        self.job = None;
        Ended(ended)
    }

    /// Takes in the helper's answer.
    pub fn record(&mut self, Ended(ended): Ended, dataplane: &mut Dataplane) {
        let Job { targets, closed, took, cost } = match ended {
            Ok(job) => job,
            Err(error) => return self.helper_ended(&error.to_string()),
        };
        let (outcomes, coverage) = match closed {
            Ok(closed) => closed,
            Err(error) => {
                let again = self.failed(error);
                let now = Instant::now();
                if targets.is_empty() {
                    self.throttle.rechecked(now, took);
                    self.throttle.passed(now, cost.spent);
                } else {
                    self.throttle.failed(now, cost.spent + took);
                }
                self.passed(cost);
                // Those that were to be closed are there still.
                return if again {
                    self.within(AGAIN);
                };
            }
        };
        if targets.is_empty() || outcomes.contains(&Outcome::Missing) {
            self.stats.record_coverage(&coverage);
        }
        let mut again = false;
        for (target, outcome) in targets.iter().zip(&outcomes) {
            let is_to_be_looked_for = self.decider.record_outcome(target, outcome);
            again |= is_to_be_looked_for;
            let is_nowhere = *outcome == Outcome::Missing && coverage.is_whole();
            if is_nowhere && !is_to_be_looked_for && target.socket.in_overflow {
                self.forget(dataplane, &target.socket);
            }
        }
        self.stats.closed(&targets, &outcomes);
        if targets.is_empty() {
            // That looked at every thread of the node, and is not to keep back those that close sockets.
            self.throttle.rechecked(Instant::now(), coverage.spent);
            self.throttle.passed(Instant::now(), cost.spent);
            return self.passed(cost);
        }
        self.throttle.passed(Instant::now(), cost.spent + coverage.spent);
        self.passed(cost);
        if again {
            self.within(AGAIN);
        }
    }

    fn forget(&self, dataplane: &mut Dataplane, socket: &StaleSocket) {
        if let Err(error) = dataplane.forget_socket(socket) {
            self.stats.failed(&format!("{:#}", anyhow::Error::from(error)));
        }
    }

    /// After it was said to the throttle.
    fn passed(&mut self, cost: Cost) {
        self.stats.passed(cost.began.elapsed());
        self.due = self.due.map(|due| due.max(self.throttle.pass()));
        self.within(self.throttle.every());
    }

    /// Returns whether to try again soon.
    fn failed(&mut self, error: HelperError) -> bool {
        match error {
            HelperError::Said(reason) => {
                self.stats.failed(&reason);
                false
            }
            error => {
                self.helper_ended(&format!("{:#}", anyhow::Error::from(error)));
                true
            }
        }
    }

    /// Sees whether the helper is still there, and starts it again if it is time for that.
    pub fn check_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        match (self.away, helper.state()) {
            (_, State::Silent) | (None, State::Running(_)) | (Some(None), _) => {}
            (_, State::Lost(how)) => self.mark_lost(&how),
            (None, State::Ended(how)) => self.helper_ended(&how),
            (Some(Some(due)), _) => {
                if due <= Instant::now() {
                    self.restart_helper();
                }
            }
        }
    }

    /// The helper has ended, or is of no use any more: starts it again, if not too many did.
    fn helper_ended(&mut self, how: &str) {
        let how = match self.helper.as_ref().map(Helper::state) {
            Some(State::Lost(how)) => return self.mark_lost(&how),
            Some(State::Ended(how)) => how,
            Some(State::Running(_) | State::Silent) | None => how.to_owned(),
        };
        self.stats.ended(&how);
        let now = Instant::now();
        let due = self.backoff.after_end(now);
        self.away = Some(Some(due));
        if due <= now {
            self.restart_helper();
        }
    }

    fn restart_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        self.backoff.tried(Instant::now());
        match helper.restart() {
            Ok(pid) => {
                self.away = None;
                self.stats.restarted(pid);
                self.within(Duration::ZERO);
            }
            Err(error) => {
                self.stats.not_restarted(&format!("{:#}", anyhow::Error::from(error)));
                self.away = Some(Some(self.backoff.after_end(Instant::now())));
            }
        }
    }

    fn mark_lost(&mut self, how: &str) {
        self.away = Some(None);
        self.stats.lost(how);
    }
}

/// Has sockets closed, in namespaces of single threads as well if they are nowhere else.
fn close(
    helper: &Helper,
    targets: &[Target],
    table: &SocketTable,
) -> Result<(Vec<Outcome>, Coverage), HelperError> {
    if targets.is_empty() {
        return Ok((Vec::new(), helper.coverage()?));
    }
    let request: Vec<_> = targets.iter().map(|target| target.request).collect();
    let (mut outcomes, mut coverage) = helper.close(&request, false)?;
    let is_there = |target: &Target| {
        target.socket.in_overflow || table.holds(target.socket.cookie, &target.socket.record)
    };
    let missing: Vec<usize> = (0..targets.len())
        .filter(|&place| outcomes[place] == Outcome::Missing && is_there(&targets[place]))
        .collect();
    if !missing.is_empty() {
        let request: Vec<_> = missing.iter().map(|&place| request[place]).collect();
        let (found, further) = helper.close(&request, true)?;
        for (place, outcome) in missing.into_iter().zip(found) {
            outcomes[place] = outcome;
        }
        let spent = coverage.spent + further.spent;
        coverage = Coverage { spent, ..further };
    }
    Ok((outcomes, coverage))
}
