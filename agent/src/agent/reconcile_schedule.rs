//! Repairs what others changed in the kernel. Pins and links are reconciled every few seconds; the maps
//! once in an interval, a few thousand entries at a time, so that no change waits for long.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    dataplane::{Comparison, Dataplane, DataplaneError, Drift},
    log_on_change::LogOnChange,
    status::Shared,
    telemetry::Metrics,
};

/// Map entries in one step, which takes about two milliseconds.
const STEP: usize = 4096;

pub struct ReconcileSchedule {
    interval: Duration,
    comparison: Comparison,
    due: Instant,
    links_log: LogOnChange,
    maps_log: LogOnChange,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

impl ReconcileSchedule {
    /// The maps are first reconciled after one interval: what was just written needs no check.
    pub fn new(interval: Duration, shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        Self {
            interval,
            comparison: Comparison::default(),
            due: Instant::now() + interval,
            links_log: LogOnChange::new("cannot reconcile pins and links"),
            maps_log: LogOnChange::new("cannot compare the kernel with the plan"),
            shared,
            metrics,
        }
    }

    /// How often to call [`Self::reconcile_links`]: it costs little, and what it repairs may be an
    /// outage. Every 5 s with the default interval.
    pub fn links_interval(interval: Duration) -> Duration {
        (interval / 12).max(Duration::from_secs(1))
    }

    /// When to call [`Self::reconcile_maps`].
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Reconciles pins and links.
    pub fn reconcile_links(&mut self, dataplane: &mut Dataplane) {
        let (repaired, result) = dataplane.reconcile_links();
        if self.links_log.record(result.as_ref().map(drop).map_err(|error| error as &dyn Error)) {
            self.publish_errors();
        }
        self.record(&repaired, &result);
    }

    /// Reconciles the next entries of the maps.
    pub fn reconcile_maps(&mut self, dataplane: &mut Dataplane) {
        let steps = dataplane.entries_to_compare() / STEP + 1;
        self.due = Instant::now() + self.interval / u32::try_from(steps).unwrap_or(u32::MAX);
        let (repaired, result) = dataplane.reconcile_maps(&mut self.comparison, STEP);
        if self.maps_log.record(result.as_ref().map(drop).map_err(|error| error as &dyn Error)) {
            self.publish_errors();
        }
        self.record(&repaired, &result);
    }

    /// Counts what was repaired, and an error.
    fn record(&self, repaired: &Drift, result: &Result<(), DataplaneError>) {
        if result.is_err() {
            self.metrics.sync_failed();
        }
        if repaired.repairs() == 0 {
            return;
        }
        tracing::warn!("the kernel differed from the plan and was repaired: {repaired}");
        self.metrics.repaired(repaired);
        self.shared.update(|status| {
            for (kind, count) in repaired.by_kind().filter(|(_, count)| *count > 0) {
                *status.drift_repairs.entry(kind.name().to_owned()).or_default() += count as u64;
            }
        });
    }

    fn publish_errors(&self) {
        let logs = [&self.links_log, &self.maps_log];
        let errors = logs.into_iter().filter_map(|log| log.error().map(ToOwned::to_owned));
        let errors = errors.collect();
        self.shared.update(|status| status.reconcile_errors = errors);
    }
}
