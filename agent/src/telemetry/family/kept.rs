//! Families that keep their series.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::{HistogramOpts, IntCounter, Opts};

use super::{
    definition::{Definition, FamilyType, MetricKind},
    exposition,
};
use crate::telemetry::labels::Labels;

pub type Counter<L> = Family<L, IntCounter>;
pub type Gauge<L> = Family<L, prometheus::Gauge>;
pub type Histogram<L> = Family<L, prometheus::Histogram>;

/// A family that keeps its series: one metric for each set of labels.
pub struct Family<L, M> {
    definition: Definition,
    series: Mutex<BTreeMap<L, M>>,
}

/// A metric that a [`Family`] keeps. Clones share their value.
pub trait Metric: prometheus::core::Metric + Clone {
    const KIND: MetricKind;

    fn new(definition: &Definition) -> Self;
}

impl Metric for IntCounter {
    const KIND: MetricKind = MetricKind::Counter;

    fn new(definition: &Definition) -> Self {
        Self::with_opts(Opts::new(definition.name, definition.help)).expect(VALID)
    }
}

impl Metric for prometheus::Gauge {
    const KIND: MetricKind = MetricKind::Gauge;

    fn new(definition: &Definition) -> Self {
        Self::with_opts(Opts::new(definition.name, definition.help)).expect(VALID)
    }
}

impl Metric for prometheus::Histogram {
    const KIND: MetricKind = MetricKind::Histogram;

    fn new(definition: &Definition) -> Self {
        let options = HistogramOpts::new(definition.name, definition.help);
        Self::with_opts(options.buckets(definition.buckets.to_vec())).expect(VALID)
    }
}

const VALID: &str = "a test makes each family of the table";

impl<L: Labels, M: Metric> Family<L, M> {
    /// The metric with these labels. It is there from now on.
    pub fn with(&self, labels: L) -> M {
        self.lock().entry(labels).or_insert_with(|| M::new(&self.definition)).clone()
    }

    /// Keeps only the series for which `keep` is true.
    pub fn retain(&self, keep: impl Fn(&L) -> bool) {
        self.lock().retain(|labels, _| keep(labels));
    }

    /// The map is valid also after a panic.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<L, M>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: Labels> Gauge<L> {
    pub fn set(&self, labels: L, value: f64) {
        self.with(labels).set(value);
    }

    /// Replaces all series in one step, so that no scrape sees some of them.
    pub fn replace(&self, series: impl IntoIterator<Item = (L, f64)>) {
        let gauges = series.into_iter().map(|(labels, value)| {
            let gauge = <prometheus::Gauge as Metric>::new(&self.definition);
            gauge.set(value);
            (labels, gauge)
        });
        let gauges = gauges.collect();
        *self.lock() = gauges;
    }
}

impl<L: Labels, M: Metric> FamilyType for Family<L, M> {
    const KIND: MetricKind = M::KIND;
    type Labels = L;

    fn new(definition: Definition) -> Self {
        Self { definition, series: Mutex::default() }
    }

    fn write_kept(&self, text: &mut String) -> prometheus::Result<()> {
        let series = self.lock();
        let metrics =
            series.iter().map(|(labels, metric)| exposition::with_labels(metric.metric(), labels));
        let metrics = metrics.collect();
        drop(series);
        exposition::write(&self.definition, metrics, text)
    }
}
