//! Closing sockets whose backend is gone, so that their applications connect again: UDP sockets at
//! once, TCP connections when their service says so.
//!
//! What is to be closed follows from the maps and the objects as they are ([`decide`]); the helper
//! process closes it. A pass that finds nothing costs a look at the records of sockets.

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
    backoff::Revival,
    decide::{Doomed, Judge},
    stats::Account,
    throttle::Pace,
};
use crate::{
    dataplane::{Dataplane, Orphan, SocketTable, SyncReport},
    helper::{Helper, HelperError, Outcome, Reach, State},
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
pub struct Closing {
    /// `None` when none was started.
    helper: Option<Helper>,
    /// It is away: when to start it again, `None` if nobody can.
    away: Option<Option<Instant>>,
    revival: Revival,
    /// The kernel has a method that closes sockets.
    is_possible: bool,
    table: SocketTable,
    judge: Judge,
    due: Option<Instant>,
    pace: Pace,
    /// Since when backends left that no pass has seen.
    left: Option<Instant>,
    job: Option<JoinHandle<Job>>,
    account: Account,
}

/// What the helper was asked to close, and its answer.
struct Job {
    doomed: Vec<Doomed>,
    closed: Result<(Vec<Outcome>, Reach), HelperError>,
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

impl Closing {
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
            account: Account::new(helper.as_ref(), shared, metrics),
            helper,
            away: None,
            revival: Revival::default(),
            is_possible: dataplane.features().closing().is_some(),
            table: dataplane.socket_table().clone(),
            judge: Judge::default(),
            // What was removed while no agent ran.
            due: Some(now),
            pace: Pace::new(every, now),
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
                self.judge.removed(addresses.iter().map(at), after);
            }
        }
        if report.backends_removed > 0 {
            self.left.get_or_insert_with(Instant::now);
            self.within(AFTER);
        } else if self.judge.has_spared() {
            // An endpoint that was out of the plan, and served, may do so no more.
            self.within(AFTER);
        }
    }

    /// Asks for a pass.
    pub fn within(&mut self, time: Duration) {
        let at = (Instant::now() + time).max(self.pace.pass());
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
        let (orphans, all) = dataplane.orphans();
        if let Err(error) = all {
            self.account.failed(&format!("{:#}", anyhow::Error::from(error)));
        }
        let owners = dataplane.owners(&orphans);
        let left = self.left.take().unwrap_or(now);
        let verdict = self.judge.verdict(&orphans, &owners, index, left, now);
        if let Some(next) = verdict.next {
            self.within(next.saturating_duration_since(Instant::now()));
        }
        let cost = Cost { began: now, spent: now.elapsed() };
        // What could not be looked into may be there by now: a warning shall not outlive its cause.
        let rechecks = self.account.has_unseen() && self.pace.rechecks(now);
        if verdict.doomed.is_empty() && !rechecks {
            self.pace.passed(Instant::now(), cost.spent);
            return self.passed(cost);
        }
        let (doomed, table) = (verdict.doomed, self.table.clone());
        if let Some(helper) = self.helper.clone() {
            self.job = Some(spawn_blocking(move || {
                let began = Instant::now();
                let closed = close(&helper, &doomed, &table);
                Job { doomed, closed, took: began.elapsed(), cost }
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
    pub fn take_in(&mut self, Ended(ended): Ended, dataplane: &mut Dataplane) {
        let Job { doomed, closed, took, cost } = match ended {
            Ok(job) => job,
            Err(error) => return self.ended_with(&error.to_string()),
        };
        let (outcomes, reach) = match closed {
            Ok(closed) => closed,
            Err(error) => {
                let again = self.failed(error);
                let now = Instant::now();
                if doomed.is_empty() {
                    self.pace.rechecked(now, took);
                    self.pace.passed(now, cost.spent);
                } else {
                    self.pace.failed(now, cost.spent + took);
                }
                self.passed(cost);
                // Those that were to be closed are there still.
                return if again {
                    self.within(AGAIN);
                };
            }
        };
        if doomed.is_empty() || outcomes.contains(&Outcome::Missing) {
            self.account.reached(&reach);
        }
        let mut again = false;
        for (doomed, outcome) in doomed.iter().zip(&outcomes) {
            let is_to_be_looked_for = self.judge.came_of(doomed, outcome);
            again |= is_to_be_looked_for;
            let is_nowhere = *outcome == Outcome::Missing && reach.is_whole();
            if is_nowhere && !is_to_be_looked_for && doomed.orphan.noted {
                self.forget(dataplane, &doomed.orphan);
            }
        }
        self.account.closed(&doomed, &outcomes);
        if doomed.is_empty() {
            // That looked at every thread of the node, and is not to keep back those that close sockets.
            self.pace.rechecked(Instant::now(), reach.spent);
            self.pace.passed(Instant::now(), cost.spent);
            return self.passed(cost);
        }
        self.pace.passed(Instant::now(), cost.spent + reach.spent);
        self.passed(cost);
        if again {
            self.within(AGAIN);
        }
    }

    fn forget(&self, dataplane: &mut Dataplane, orphan: &Orphan) {
        if let Err(error) = dataplane.forget_orphan(orphan) {
            self.account.failed(&format!("{:#}", anyhow::Error::from(error)));
        }
    }

    /// After it was said to the pace.
    fn passed(&mut self, cost: Cost) {
        self.account.passed(cost.began.elapsed());
        self.due = self.due.map(|due| due.max(self.pace.pass()));
        self.within(self.pace.every());
    }

    /// Returns whether to try again soon.
    fn failed(&mut self, error: HelperError) -> bool {
        match error {
            HelperError::Said(reason) => {
                self.account.failed(&reason);
                false
            }
            error => {
                self.ended_with(&format!("{:#}", anyhow::Error::from(error)));
                true
            }
        }
    }

    /// Sees whether the helper is still there, and starts it again if it is time for that.
    pub fn look_at_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        match (self.away, helper.state()) {
            (_, State::Silent) | (None, State::Running(_)) | (Some(None), _) => {}
            (_, State::Lost(how)) => self.lose(&how),
            (None, State::Ended(how)) => self.ended_with(&how),
            (Some(Some(due)), _) => {
                if due <= Instant::now() {
                    self.revive();
                }
            }
        }
    }

    /// The helper has ended, or is of no use any more: starts it again, if not too many did.
    fn ended_with(&mut self, how: &str) {
        let how = match self.helper.as_ref().map(Helper::state) {
            Some(State::Lost(how)) => return self.lose(&how),
            Some(State::Ended(how)) => how,
            Some(State::Running(_) | State::Silent) | None => how.to_owned(),
        };
        self.account.ended(&how);
        let now = Instant::now();
        let due = self.revival.after_end(now);
        self.away = Some(Some(due));
        if due <= now {
            self.revive();
        }
    }

    fn revive(&mut self) {
        let Some(helper) = &self.helper else { return };
        self.revival.tried(Instant::now());
        match helper.restart() {
            Ok(pid) => {
                self.away = None;
                self.account.restarted(pid);
                self.within(Duration::ZERO);
            }
            Err(error) => {
                self.account.not_restarted(&format!("{:#}", anyhow::Error::from(error)));
                self.away = Some(Some(self.revival.after_end(Instant::now())));
            }
        }
    }

    fn lose(&mut self, how: &str) {
        self.away = Some(None);
        self.account.lost(how);
    }
}

/// Has sockets closed, in namespaces of single threads as well if they are nowhere else.
fn close(
    helper: &Helper,
    doomed: &[Doomed],
    table: &SocketTable,
) -> Result<(Vec<Outcome>, Reach), HelperError> {
    if doomed.is_empty() {
        return Ok((Vec::new(), helper.reach()?));
    }
    let wanted: Vec<_> = doomed.iter().map(|doomed| doomed.wanted).collect();
    let (mut outcomes, mut reach) = helper.close(&wanted, false)?;
    let is_there = |doomed: &Doomed| {
        doomed.orphan.noted || table.holds(doomed.orphan.cookie, &doomed.orphan.record)
    };
    let missing: Vec<usize> = (0..doomed.len())
        .filter(|&place| outcomes[place] == Outcome::Missing && is_there(&doomed[place]))
        .collect();
    if !missing.is_empty() {
        let wanted: Vec<_> = missing.iter().map(|&place| wanted[place]).collect();
        let (found, further) = helper.close(&wanted, true)?;
        for (place, outcome) in missing.into_iter().zip(found) {
            outcomes[place] = outcome;
        }
        let spent = reach.spent + further.spent;
        reach = Reach { spent, ..further };
    }
    Ok((outcomes, reach))
}
