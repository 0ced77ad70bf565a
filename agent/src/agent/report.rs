//! What is told of the state: log, status and gauges.
//!
//! What this goes through grows with the cluster, so it comes after the changes that matter to
//! connections, and not for each of them.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    dataplane::Usage,
    model::{index::Index, object::Problem},
    status::{self, Objects, Shared},
    telemetry::Metrics,
};

/// How late a change may be told.
const AFTER: Duration = Duration::from_millis(100);
/// Telling takes no more than one part in so many of the time.
const SHARE: u32 = 100;

pub struct Report {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    due: Option<Instant>,
    after: Duration,
    /// Problems and failures that were logged already.
    problems_told: BTreeSet<Problem>,
    failures_told: BTreeSet<String>,
    /// What the last sync could not bring into the kernel.
    failures: Vec<String>,
}

impl Report {
    pub const fn new(shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        Self {
            shared,
            metrics,
            due: None,
            after: AFTER,
            problems_told: BTreeSet::new(),
            failures_told: BTreeSet::new(),
            failures: Vec::new(),
        }
    }

    /// When [`Self::tell`] is to be called.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Something changed that is to be told.
    pub fn is_old(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + self.after);
    }

    /// Takes in what the last sync could not do; logs what is new.
    pub fn failures(&mut self, failures: Vec<String>) {
        for failure in &failures {
            if self.failures_told.insert(failure.clone()) {
                tracing::error!("{failure}; it keeps what it had");
            }
        }
        // A service may have thousands of ports that fail.
        let present: BTreeSet<&String> = failures.iter().collect();
        self.failures_told.retain(|failure| present.contains(failure));
        self.metrics.not_in_kernel(failures.len());
        self.failures = failures;
    }

    /// The last sync failed as a whole.
    pub fn failed(&mut self, error: &anyhow::Error) {
        tracing::error!("cannot bring the plan into the kernel: {error:#}");
        self.metrics.sync_failed();
        self.failures = vec![format!("{error:#}")];
    }

    /// Brings everything up to date.
    pub fn tell(&mut self, index: &Index, usage: &Usage) {
        let began = Instant::now();
        self.due = None;
        self.problems(index.problems().into_iter().collect());
        let counts = index.counts();
        self.metrics.usage(usage);
        self.shared.update(|status| {
            status.objects = Objects {
                services: counts.services,
                endpoint_slices: counts.endpoint_slices,
                endpoints: counts.endpoints,
            };
            status.failures.clone_from(&self.failures);
            status.maps = status::maps(usage);
        });
        self.after = AFTER.max(began.elapsed() * SHARE);
    }

    /// Logs each problem once, when it appears, and once more when it is gone.
    fn problems(&mut self, problems: BTreeSet<Problem>) {
        for new in problems.difference(&self.problems_told) {
            tracing::warn!("{new}");
        }
        for solved in self.problems_told.difference(&problems) {
            tracing::info!("solved: {solved}");
        }
        self.metrics.problems(problems.len());
        self.shared
            .update(|status| status.problems = problems.iter().map(ToString::to_string).collect());
        self.problems_told = problems;
    }
}
