//! Closes sockets whose backend is gone, so that their applications connect again: UDP sockets at once, TCP
//! connections when their service says so.
//!
//! Called by the control loop. [`decide`] chooses sockets from the maps and the objects (pure), the helper
//! process closes them, [`stats`] reports (log, metrics, status), [`throttle`] limits the processor time of
//! passes, [`backoff`] delays restarts of the helper.
//!
//! Invariants: one pass at a time, and the control loop never waits for the helper. Nothing is closed while the
//! source is incomplete. A socket is closed by its cookie, never by an address alone.

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

/// Delay of a pass after a change: collects changes that come together, and lets programs end that
/// chose a backend just before it was removed.
const AFTER: Duration = Duration::from_millis(100);
/// Delay before sockets that were not as expected are searched again.
const AGAIN: Duration = Duration::from_secs(1);
/// After the supervisor of the helper took longer than this to answer, the control loop does not ask it
/// again in the same turn: each answer may take 5 seconds, and the shortest `--fail-open-after` is 10.
const PATIENCE: Duration = Duration::from_secs(1);

/// Schedules passes and records their results.
pub struct Termination {
    /// `None` when none was started.
    helper: Option<Helper>,
    /// Set while the helper is down: when to restart it; inner `None` if that is impossible.
    away: Option<Option<Instant>>,
    backoff: RestartBackoff,
    /// The kernel has a method that closes sockets.
    is_possible: bool,
    table: SocketTable,
    decider: Decider,
    due: Option<Instant>,
    throttle: Throttle,
    /// When the first backend was removed that no pass has seen.
    left: Option<Instant>,
    job: Option<JoinHandle<Job>>,
    stats: Stats,
}

/// A request to the helper, and its answer.
struct Job {
    targets: Vec<Target>,
    closed: Result<(Vec<Outcome>, Coverage), HelperError>,
    /// How long that took.
    took: Duration,
    cost: Cost,
}

/// The cost of a pass so far.
#[derive(Debug, Clone, Copy)]
struct Cost {
    began: Instant,
    /// Processor time.
    spent: Duration,
}

/// The end of a job.
pub struct Ended(Result<Job, JoinError>);

impl Termination {
    /// Without a helper and a method, nothing is closed. A pass runs at least once in `every`.
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
            // For backends that were removed while no agent ran.
            due: Some(now),
            throttle: Throttle::new(every, now),
            left: None,
            job: None,
        }
    }

    /// Records the report of a sync.
    pub fn synced(&mut self, report: &SyncReport, index: &mut Index) {
        let last_words = index.take_last_words();
        for removed in report.removed.iter().filter(|removed| decide::is_tcp(&removed.port)) {
            let service = &removed.port.service;
            let said = last_words.iter().find(|(deleted, _)| deleted == service);
            let said = said.map(|(_, after)| *after);
            if let Some(after) = said.or_else(|| index.close_on_removal(service)) {
                let at = |key: &FrontendKey| (key.address.into(), u16::from_be(key.port));
                self.decider.removed(removed.id, removed.keys.iter().map(at), after);
            }
        }
        if report.backends_removed > 0 {
            self.left.get_or_insert_with(Instant::now);
            self.within(AFTER);
        } else if self.decider.has_spared() {
            // An endpoint that was not in the plan but still served may have stopped.
            self.within(AFTER);
        }
    }

    /// Schedules a pass within this time.
    pub fn within(&mut self, time: Duration) {
        let at = (Instant::now() + time).max(self.throttle.pass());
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When to call [`Self::pass`].
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        // One at a time.
        let can = self.is_possible && self.helper.is_some() && self.away.is_none();
        self.due.filter(|_| can && self.job.is_none())
    }

    /// Starts a pass: finds sockets to close, and asks the helper to close them.
    pub fn pass(&mut self, dataplane: &Dataplane, index: &Index) {
        self.due = None;
        // While the source is incomplete, an endpoint may only seem to be gone.
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
        // Namespaces that could not be entered may be accessible by now. The check ends the warning
        // in time.
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

    /// Waits for the helper's answer; for ever if there was no request.
    pub async fn ended(&mut self) -> Ended {
        let Some(job) = &mut self.job else { return std::future::pending().await };
        let ended = job.await;
        self.job = None;
        Ended(ended)
    }

    /// Records the helper's answer.
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
                // The sockets still have to be closed.
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
            // That checked every thread of the node. It must not delay passes that close sockets.
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

    /// To be called after the throttle knows the cost.
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

    /// Checks whether the helper runs, and restarts it when its backoff is over.
    pub fn check_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        let began = Instant::now();
        match self.away {
            // Does not ask the supervisor first. If it is lost, the next check finds that.
            Some(Some(due)) if due <= began => self.restart_helper(),
            Some(Some(_)) => {
                if let State::Lost(how) = helper.state() {
                    self.mark_lost(&how);
                }
            }
            Some(None) => {}
            None => match helper.state() {
                State::Silent | State::Running(_) => {}
                State::Lost(how) => self.mark_lost(&how),
                State::Ended(how) => self.set_away(&how, began),
            },
        }
    }

    /// The helper has ended or does not answer: restarts it, with a backoff.
    fn helper_ended(&mut self, how: &str) {
        let began = Instant::now();
        match self.helper.as_ref().map(Helper::state) {
            Some(State::Lost(how)) => self.mark_lost(&how),
            Some(State::Ended(how)) => self.set_away(&how, began),
            Some(State::Running(_) | State::Silent) | None => self.set_away(how, began),
        }
    }

    /// The helper has ended: restarts it if its backoff is over and the supervisor, asked at `began`, took
    /// no more than [`PATIENCE`] to answer. Otherwise [`Self::check_helper`] restarts it later.
    fn set_away(&mut self, how: &str, began: Instant) {
        self.stats.ended(how);
        let now = Instant::now();
        let due = self.backoff.after_end(now);
        self.away = Some(Some(due));
        if due <= now && now.duration_since(began) <= PATIENCE {
            self.restart_helper();
        }
    }

    fn restart_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        let restarted = helper.restart();
        if matches!(restarted, Err(HelperError::NoSupervisor)) {
            // That is logged already. The next check tries again, and does not wait for it.
            return;
        }
        self.backoff.tried(Instant::now());
        match restarted {
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

/// Asks the helper to close sockets; searches namespaces of single threads only for those that are
/// nowhere else.
fn close(
    helper: &Helper,
    targets: &[Target],
    table: &SocketTable,
) -> Result<(Vec<Outcome>, Coverage), HelperError> {
    if targets.is_empty() {
        return Ok((Vec::new(), helper.coverage()?));
    }
    let requests: Vec<_> = targets.iter().map(|target| target.request).collect();
    let (mut outcomes, mut coverage) = helper.close(&requests, false)?;
    let is_there = |target: &Target| {
        target.socket.in_overflow || table.holds(target.socket.cookie, &target.socket.record)
    };
    let missing: Vec<usize> = (0..targets.len())
        .filter(|&place| outcomes[place] == Outcome::Missing && is_there(&targets[place]))
        .collect();
    if !missing.is_empty() {
        let requests: Vec<_> = missing.iter().map(|&place| requests[place]).collect();
        let (found, further) = helper.close(&requests, true)?;
        for (place, outcome) in missing.into_iter().zip(found) {
            outcomes[place] = outcome;
        }
        let spent = coverage.spent + further.spent;
        coverage = Coverage { spent, ..further };
    }
    Ok((outcomes, coverage))
}
