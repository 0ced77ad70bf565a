//! Families whose series a scrape reads from elsewhere.

use std::marker::PhantomData;

use super::{
    definition::{Definition, FamilyType, MetricKind},
    exposition::{self, Buckets, Line},
};
use crate::telemetry::labels::Labels;

pub type ScrapedCounter<L> = Scraped<L, CounterSample>;
pub type ScrapedGauge<L> = Scraped<L, GaugeSample>;
pub type ScrapedHistogram<L> = Scraped<L, HistogramSample>;

/// A family whose series are read at each scrape.
pub struct Scraped<L, S> {
    definition: Definition,
    samples: PhantomData<fn(L, S)>,
}

/// What a [`Scraped`] family has samples of.
pub trait Sample {
    const KIND: MetricKind;
    type Value;

    /// What the lines of several series have in common.
    type Common: Default;

    /// Writes the lines of one series of the family with this name. `labels` is what stands between the braces.
    fn write(
        name: &str,
        labels: &str,
        value: Self::Value,
        common: &mut Self::Common,
        text: &mut String,
    );
}

#[derive(Debug)]
pub enum CounterSample {}

impl Sample for CounterSample {
    const KIND: MetricKind = MetricKind::Counter;
    type Value = f64;
    type Common = ();

    fn write(name: &str, labels: &str, value: f64, (): &mut (), text: &mut String) {
        Line { name, suffix: "", labels }.write(value, text);
    }
}

#[derive(Debug)]
pub enum GaugeSample {}

impl Sample for GaugeSample {
    const KIND: MetricKind = MetricKind::Gauge;
    type Value = f64;
    type Common = ();

    fn write(name: &str, labels: &str, value: f64, (): &mut (), text: &mut String) {
        Line { name, suffix: "", labels }.write(value, text);
    }
}

#[derive(Debug)]
pub enum HistogramSample {}

/// A histogram that was counted elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramValue {
    /// The upper bound of each bucket and what is in it; what is above all bounds comes last.
    pub buckets: Vec<(f64, u64)>,
    pub sum: f64,
}

impl Sample for HistogramSample {
    const KIND: MetricKind = MetricKind::Histogram;
    type Value = HistogramValue;
    type Common = Buckets;

    fn write(
        name: &str,
        labels: &str,
        value: HistogramValue,
        common: &mut Buckets,
        text: &mut String,
    ) {
        let count = common.write((name, labels), &value.buckets, text);
        Line { name, suffix: "_sum", labels }.write(value.sum, text);
        Line { name, suffix: "_count", labels }.write(count as f64, text);
    }
}

impl<L: Labels, S: Sample> Scraped<L, S> {
    /// Writes the family with all its series, in the text format of Prometheus. Without series, it writes nothing.
    pub fn write(&self, series: impl IntoIterator<Item = (L, S::Value)>, text: &mut String) {
        let (mut labels_text, mut common) = (String::new(), S::Common::default());
        let mut is_first = true;
        for (labels, value) in series {
            if std::mem::replace(&mut is_first, false) {
                exposition::write_head(&self.definition, text);
            }
            exposition::labels(&labels, &mut labels_text);
            S::write(self.definition.name, &labels_text, value, &mut common, text);
        }
    }
}

impl<L: Labels, S: Sample> FamilyType for Scraped<L, S> {
    const KIND: MetricKind = S::KIND;
    type Labels = L;

    fn new(definition: Definition) -> Self {
        Self { definition, samples: PhantomData }
    }

    fn write_kept(&self, _text: &mut String) -> prometheus::Result<()> {
        Ok(())
    }
}
