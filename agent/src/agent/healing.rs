//! Keeping the kernel's side as it should be, whoever damages it: pins and links are looked at often,
//! the maps are compared with what they should hold once in an interval, a few thousand entries at a
//! time, so that no change waits for long.

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

/// Entries that are compared in one go: some two milliseconds.
const STEP: usize = 4096;

pub struct Healing {
    interval: Duration,
    comparison: Comparison,
    due: Instant,
    /// What could not be looked at the last time, and why.
    pins_log: LogOnChange,
    maps_log: LogOnChange,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

impl Healing {
    /// The first comparison begins after one interval: what was just written needs none.
    pub fn new(interval: Duration, shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        Self {
            interval,
            comparison: Comparison::default(),
            due: Instant::now() + interval,
            pins_log: LogOnChange::new("cannot look after pins and links"),
            maps_log: LogOnChange::new("cannot compare the kernel with the plan"),
            shared,
            metrics,
        }
    }

    /// How often [`Self::keep`] is to be called: it costs next to nothing, and what it mends may be an
    /// outage. Every 5 s with the default interval.
    pub fn keep_interval(interval: Duration) -> Duration {
        (interval / 12).max(Duration::from_secs(1))
    }

    /// When [`Self::compare_some`] is to be called.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Looks after pins and links.
    pub fn keep(&mut self, dataplane: &mut Dataplane) {
        let (mended, kept) = dataplane.keep();
        if self.pins_log.record(kept.as_ref().map(drop).map_err(|error| error as &dyn Error)) {
            self.tell();
        }
        self.mended(&mended, &kept);
    }

    /// Goes on with the comparison of the maps with what they should hold.
    pub fn compare_some(&mut self, dataplane: &mut Dataplane) {
        let steps = dataplane.entries_to_compare() / STEP + 1;
        self.due = Instant::now() + self.interval / u32::try_from(steps).unwrap_or(u32::MAX);
        let (mended, compared) = dataplane.repair_some(&mut self.comparison, STEP);
        if self.maps_log.record(compared.as_ref().map(drop).map_err(|error| error as &dyn Error)) {
            self.tell();
        }
        self.mended(&mended, &compared);
    }

    /// Counts what was mended, and whether something could not be.
    fn mended(&self, drift: &Drift, result: &Result<(), DataplaneError>) {
        if result.is_err() {
            self.metrics.sync_failed();
        }
        if drift.repairs() == 0 {
            return;
        }
        tracing::warn!("the kernel differed from the plan and was repaired: {drift}");
        self.metrics.repaired(drift);
        self.shared.update(|status| {
            status.repairs += drift.repairs() as u64;
            for (kind, count) in drift.by_kind().filter(|(_, count)| *count > 0) {
                *status.repairs_by_kind.entry(kind.to_owned()).or_default() += count as u64;
            }
        });
    }

    fn tell(&self) {
        let logs = [&self.pins_log, &self.maps_log];
        let errors =
            logs.into_iter().filter_map(|log| log.error().map(ToOwned::to_owned)).collect();
        self.shared.update(|status| status.not_healing = errors);
    }
}
