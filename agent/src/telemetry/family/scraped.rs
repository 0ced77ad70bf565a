//! Families whose series a scrape reads from elsewhere.

use std::marker::PhantomData;

use prometheus::proto;

use super::{
    definition::{Definition, FamilyType, MetricKind},
    exposition,
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

    fn metric(value: Self::Value) -> proto::Metric;
}

#[derive(Debug)]
pub enum CounterSample {}

impl Sample for CounterSample {
    const KIND: MetricKind = MetricKind::Counter;
    type Value = f64;

    fn metric(value: f64) -> proto::Metric {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        let mut metric = proto::Metric::default();
        metric.set_counter(counter);
        metric
    }
}

#[derive(Debug)]
pub enum GaugeSample {}

impl Sample for GaugeSample {
    const KIND: MetricKind = MetricKind::Gauge;
    type Value = f64;

    fn metric(value: f64) -> proto::Metric {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        let mut metric = proto::Metric::default();
        metric.set_gauge(gauge);
        metric
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

    fn metric(value: HistogramValue) -> proto::Metric {
        let mut histogram = proto::Histogram::default();
        let mut count = 0;
        let mut buckets = Vec::with_capacity(value.buckets.len());
        for (bound, values) in value.buckets {
            count += values;
            // The encoder adds the last one.
            if bound.is_infinite() {
                continue;
            }
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        histogram.set_sample_count(count);
        histogram.set_sample_sum(value.sum);
        histogram.set_bucket(buckets);
        let mut metric = proto::Metric::default();
        metric.set_histogram(histogram);
        metric
    }
}

impl<L: Labels, S: Sample> Scraped<L, S> {
    /// Writes the family with all its series, in the text format of Prometheus.
    ///
    /// # Errors
    /// When the encoder refuses a metric.
    pub fn write(
        &self,
        series: impl IntoIterator<Item = (L, S::Value)>,
        text: &mut String,
    ) -> prometheus::Result<()> {
        let metrics = series
            .into_iter()
            .map(|(labels, value)| exposition::with_labels(S::metric(value), &labels));
        exposition::write(&self.definition, metrics.collect(), text)
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
