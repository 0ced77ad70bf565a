//! Counts long connections while they are open, beside the programs, which count each connection when it ends; and those
//! that hang while they are opened.
//!
//! A walk runs on a thread of its own: it marks records, waits for running programs, and has the helper process read what
//! the kernel has counted of the connections. The control loop then adds what is new to the maps. `maps/partly_counted.rs` of
//! the data plane says why nothing is counted twice or lost. `walk` is what the thread does, `missed` says where it searches
//! connections that it did not find before.

mod missed;
mod walk;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::task::JoinError;

use self::walk::{Walk, Walked};
use super::background_job::BackgroundJob;
use crate::{
    dataplane::{Dataplane, FeatureSet, Telemetry},
    helper::Helper,
    log_on_change::LogOnChange,
    status::BytesCounted,
    telemetry::Metrics,
};

/// Walks take at most this share of one processor: the kernel searches its whole TCP table for each network namespace.
const SHARE: u32 = 50;
/// The longest pause after a walk that failed.
const AFTER_A_FAILURE: Duration = Duration::from_secs(60);
/// How long a connection has been open at least when a walk reads it. Most connections are shorter, and most SYNs that have
/// no answer are sent again after this time.
const MIN_AGE: Duration = Duration::from_secs(1);

pub struct LongConnections {
    /// `None` if connections are counted when they end only.
    walk: Option<Arc<Mutex<Walk>>>,
    job: BackgroundJob<anyhow::Result<Walked>>,
    interval: Duration,
    /// What is due next, or runs.
    step: Step,
    began: Instant,
    due: Instant,
    metrics: Arc<Metrics>,
    log: LogOnChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Notes which connections are open, [`MIN_AGE`] before a walk.
    Look,
    Walk,
}

/// The result of a step.
pub struct WalkResult(Result<anyhow::Result<Walked>, JoinError>);

impl LongConnections {
    /// Without a helper, nobody enters the connections' network namespaces.
    pub fn new(
        interval: Duration,
        telemetry: Telemetry,
        dataplane: &Dataplane,
        helper: Option<Helper>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let features = dataplane.features();
        let needed =
            FeatureSet::SOCKET_FIELDS | FeatureSet::COMPARE_AND_SWAP | FeatureSet::KERNEL_SOCKETS;
        let is_possible = telemetry == Telemetry::On && features.has(needed);
        let walk = helper
            .filter(|_| is_possible)
            .map(|helper| Walk::new(dataplane.open_connections(), dataplane.rcu(), helper));
        let now = Instant::now();
        let (step, due) = before_walk(now + interval, now);
        Self {
            walk: walk.map(|walk| Arc::new(Mutex::new(walk))),
            job: BackgroundJob::default(),
            interval,
            step,
            began: now,
            due,
            metrics,
            log: LogOnChange::new("cannot count connections while they are open"),
        }
    }

    /// When bytes of connections are counted.
    pub const fn bytes_counted(&self) -> BytesCounted {
        if self.walk.is_some() { BytesCounted::WhileOpen } else { BytesCounted::AtEnd }
    }

    /// When to call [`Self::start`].
    pub fn due(&self) -> Option<Instant> {
        (self.walk.is_some() && !self.job.is_running()).then_some(self.due)
    }

    /// Starts the next step, unless one runs.
    pub fn start(&mut self) {
        let Some(walk) = &self.walk else { return };
        let (walk, step) = (Arc::clone(walk), self.step);
        self.began = Instant::now();
        self.job.start(move || {
            // After a panic the state is still valid: at worst, connections are marked one walk later.
            let mut walk = walk.lock().unwrap_or_else(PoisonError::into_inner);
            match step {
                Step::Look => {
                    walk.look();
                    Ok(Walked::default())
                }
                Step::Walk => walk.run(),
            }
        });
    }

    /// Waits for the step to end; forever if none runs.
    pub async fn ended(&mut self) -> WalkResult {
        WalkResult(self.job.ended().await)
    }

    /// Counts what a walk found.
    pub fn count(&mut self, WalkResult(result): WalkResult, dataplane: &mut Dataplane) {
        if self.step == Step::Look && result.is_ok() {
            (self.step, self.due) = (Step::Walk, Instant::now() + MIN_AGE);
            return;
        }
        let walked = result.context("reading open connections").flatten();
        // How much time the helper has spent in a walk that failed is not known. It may have been silent for a minute.
        let pause = match &walked {
            Ok(walked) => walked.spent * SHARE,
            Err(_) => (self.began.elapsed() * SHARE).min(AFTER_A_FAILURE),
        };
        let now = Instant::now();
        (self.step, self.due) = before_walk(now + self.interval.max(pause), now);
        self.metrics.connections_hanging(walked.as_ref().ok().map(|walked| &walked.hanging[..]));
        let counted = walked.and_then(|walked| {
            // One that cannot be counted does not concern the others.
            let mut counted = Ok(());
            for (connection, now) in &walked.connections {
                counted = counted.and(dataplane.count_open(connection, *now));
            }
            Ok(counted?)
        });
        self.log.record(counted.as_ref().map_err(AsRef::as_ref).copied());
    }
}

/// What is due before the next walk. If that is soon, as in tests, the last walk was the look: connections that were open
/// then are read.
fn before_walk(walk: Instant, now: Instant) -> (Step, Instant) {
    match walk.checked_sub(MIN_AGE) {
        Some(look) if look > now => (Step::Look, look),
        _ => (Step::Walk, walk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_comes_a_second_before_a_walk_unless_the_last_walk_is_as_near() {
        let now = Instant::now();
        let ten = now + 10 * MIN_AGE;
        assert_eq!(before_walk(ten, now), (Step::Look, ten - MIN_AGE));
        let soon = now + MIN_AGE;
        assert_eq!(before_walk(soon, now), (Step::Walk, soon));
        let at_once = now + Duration::from_millis(20);
        assert_eq!(before_walk(at_once, now), (Step::Walk, at_once));
    }
}
