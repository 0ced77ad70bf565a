//! A pass: finds sockets whose backend is gone, and has the helper close them on another thread.

use std::time::{Duration, Instant};

use tokio::task::{JoinError, spawn_blocking};

use super::{
    Termination,
    decide::{Retry, Target},
};
use crate::{
    dataplane::{Dataplane, SocketTable, StaleSocket},
    helper::{Coverage, Helper, HelperError, Outcome, SearchScope},
    model::index::Index,
};

/// Delay before sockets that were not as expected are searched again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A request to the helper, and its answer.
pub(super) struct Job {
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
    /// Starts a pass: finds sockets to close, and sends them to the helper.
    pub fn pass(&mut self, dataplane: &Dataplane, index: &Index) {
        self.due = None;
        // While the source is incomplete, an endpoint may only seem to be gone.
        if !(index.synced() && index.is_complete()) {
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

    /// Waits for the helper's answer; forever if there was no request.
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
