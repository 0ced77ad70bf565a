//! Closes sockets whose backend is gone, so that their applications connect again: UDP sockets at once, TCP
//! connections when their service says so.
//!
//! Called by the control loop. [`decide`] chooses sockets from the maps and the objects (pure), the helper
//! process closes them, [`stats`] publishes results (log, metrics, status), [`throttle`] limits the processor time of
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
    decide::{Decider, Retry, Target},
    stats::Stats,
    throttle::Throttle,
};
use crate::{
    dataplane::{Dataplane, SocketTable, StaleSocket, SyncReport},
    helper::{Coverage, Helper, HelperError, Outcome, SearchScope, State},
    model::index::Index,
    status::Shared,
    telemetry::Metrics,
};

/// Delay of a pass after a change: collects changes that arrive together, and lets programs end that
/// chose a backend just before it was removed.
const PASS_DELAY: Duration = Duration::from_millis(100);
/// Delay before sockets that were not as expected are searched again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// If the helper's supervisor took longer than this to answer, the control loop sends it no further command
/// in the same turn: each answer may take 5 seconds, and the minimum `--fail-open-after` is 10 seconds.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(1);

/// The helper process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Up,
    Down {
        restart_at: Instant,
    },
    /// Its supervisor has exited, so it cannot be restarted.
    Lost,
}

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
            is_possible: dataplane.features().closing().is_some(),
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

    /// Starts a pass: finds sockets to close, and sends them to the helper.
    pub fn pass(&mut self, dataplane: &Dataplane, index: &Index) {
        self.due = None;
        // While the source is incomplete, an endpoint may only seem to be gone.
        if !(index.synced() && index.complete()) {
            return self.schedule(RETRY_DELAY);
        }
        let now = Instant::now();
        let (sockets, all) = dataplane.stale_sockets();
        if let Err(error) = all {
            self.stats.failed(&format!("{:#}", anyhow::Error::from(error)));
        }
        let owners = dataplane.owners(&sockets);
        let first_removal = self.first_removal.take().unwrap_or(now);
        let decision = self.decider.decide(&sockets, &owners, index, first_removal, now);
        if let Some(next) = decision.next {
            self.schedule(next.saturating_duration_since(Instant::now()));
        }
        let cost = Cost { began: now, spent: now.elapsed() };
        // Namespaces that could not be entered may be accessible by now. This check ends the warning.
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
                let retry = self.failed(error);
                let now = Instant::now();
                if targets.is_empty() {
                    self.throttle.rechecked(now, took);
                    self.throttle.passed(now, cost.spent);
                } else {
                    self.throttle.failed(now, cost.spent + took);
                }
                self.passed(cost);
                if retry == Retry::Yes {
                    // The sockets still have to be closed.
                    self.schedule(RETRY_DELAY);
                }
                return;
            }
        };
        if targets.is_empty() || outcomes.contains(&Outcome::Missing) {
            self.stats.record_coverage(&coverage);
        }
        let mut again = false;
        for (target, outcome) in targets.iter().zip(&outcomes) {
            let retry = self.decider.record_outcome(target, outcome);
            again |= retry == Retry::Yes;
            let is_gone = *outcome == Outcome::Missing && coverage.is_complete();
            if is_gone && retry == Retry::No && target.socket.in_overflow {
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
            self.schedule(RETRY_DELAY);
        }
    }

    fn forget(&self, dataplane: &mut Dataplane, socket: &StaleSocket) {
        if let Err(error) = dataplane.forget_socket(socket) {
            self.stats.failed(&format!("{:#}", anyhow::Error::from(error)));
        }
    }

    /// Ends a pass. Call this after the throttle has recorded the cost.
    fn passed(&mut self, cost: Cost) {
        self.stats.passed(cost.began.elapsed());
        self.due = self.due.map(|due| due.max(self.throttle.pass()));
        self.schedule(self.throttle.every());
    }

    /// Returns whether to retry soon.
    fn failed(&mut self, error: HelperError) -> Retry {
        match error {
            HelperError::Failed(reason) => {
                self.stats.failed(&reason);
                Retry::No
            }
            error => {
                self.helper_ended(&format!("{:#}", anyhow::Error::from(error)));
                Retry::Yes
            }
        }
    }

    /// Checks whether the helper runs, and restarts it when its backoff is over.
    pub fn check_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        let began = Instant::now();
        match self.process {
            // Without the state first: the restart also finds out if the supervisor is lost.
            Process::Down { restart_at } if restart_at <= began => self.restart_helper(),
            Process::Down { .. } => {
                if let State::Lost(how) = helper.state() {
                    self.mark_lost(&how);
                }
            }
            Process::Lost => {}
            Process::Up => match helper.state() {
                State::Silent | State::Running(_) => {}
                State::Lost(how) => self.mark_lost(&how),
                State::Ended(how) => self.set_down(&how, began),
            },
        }
    }

    /// The helper has ended or does not answer: restarts it, with a backoff.
    fn helper_ended(&mut self, how: &str) {
        let began = Instant::now();
        match self.helper.as_ref().map(Helper::state) {
            Some(State::Lost(how)) => self.mark_lost(&how),
            Some(State::Ended(how)) => self.set_down(&how, began),
            Some(State::Running(_) | State::Silent) | None => self.set_down(how, began),
        }
    }

    /// The helper has ended: restarts it if its backoff is over and the supervisor, to which a command was
    /// sent at `began`, answered within [`MAX_ANSWER_TIME`]. Otherwise [`Self::check_helper`] restarts it later.
    fn set_down(&mut self, how: &str, began: Instant) {
        self.stats.ended(how);
        let now = Instant::now();
        let restart_at = self.backoff.after_end(now);
        self.process = Process::Down { restart_at };
        if restart_at <= now && now.duration_since(began) <= MAX_ANSWER_TIME {
            self.restart_helper();
        }
    }

    fn restart_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        let restarted = helper.restart();
        if matches!(restarted, Err(HelperError::NoSupervisor)) {
            // The helper's client has logged that. The next check retries without waiting.
            return;
        }
        self.backoff.tried(Instant::now());
        match restarted {
            Ok(pid) => {
                self.process = Process::Up;
                self.stats.restarted(pid);
                self.schedule(Duration::ZERO);
            }
            Err(error) => {
                self.stats.not_restarted(&format!("{:#}", anyhow::Error::from(error)));
                self.process = Process::Down { restart_at: self.backoff.after_end(Instant::now()) };
            }
        }
    }

    fn mark_lost(&mut self, how: &str) {
        self.process = Process::Lost;
        self.stats.lost(how);
    }
}

/// Requests the helper to close sockets. Searches the namespaces of single threads only for sockets that it
/// found in no other namespace.
fn close(
    helper: &Helper,
    targets: &[Target],
    table: &SocketTable,
) -> Result<(Vec<Outcome>, Coverage), HelperError> {
    if targets.is_empty() {
        return Ok((Vec::new(), helper.coverage()?));
    }
    let requests: Vec<_> = targets.iter().map(|target| target.request).collect();
    let (mut outcomes, mut coverage) = helper.close(&requests, SearchScope::Processes)?;
    let is_there = |target: &Target| {
        target.socket.in_overflow || table.holds(target.socket.cookie, &target.socket.record)
    };
    let missing: Vec<usize> = (0..targets.len())
        .filter(|&place| outcomes[place] == Outcome::Missing && is_there(&targets[place]))
        .collect();
    if !missing.is_empty() {
        let requests: Vec<_> = missing.iter().map(|&place| requests[place]).collect();
        let (found, further) = helper.close(&requests, SearchScope::Threads)?;
        for (place, outcome) in missing.into_iter().zip(found) {
            outcomes[place] = outcome;
        }
        let spent = coverage.spent + further.spent;
        coverage = Coverage { spent, ..further };
    }
    Ok((outcomes, coverage))
}
