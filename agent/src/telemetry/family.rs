//! Families of metrics with typed labels, on top of the `prometheus` crate.
//!
//! There are two kinds:
//! - [`Counter`], [`Gauge`] and [`Histogram`] keep their series. [`Family::replace`] and [`Family::retain`]
//!   remove the series of what is gone.
//! - [`ScrapedCounter`] and [`ScrapedGauge`] keep nothing: a scrape reads their series from where they are
//!   kept, such as the kernel's maps, and writes them with [`Scraped::write`].

use std::{
    collections::BTreeMap,
    marker::PhantomData,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::{
    HistogramOpts, IntCounter, Opts, TextEncoder,
    proto::{self, MetricFamily, MetricType},
};

use super::labels::{Label, Labels};

/// A family, as it is defined.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: fn() -> Vec<Label>,
    /// One or more sentences without line breaks.
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets; empty for other types.
    pub buckets: &'static [f64],
}

/// The type of a metric, as Prometheus has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    const fn to_proto(self) -> MetricType {
        match self {
            Self::Counter => MetricType::COUNTER,
            Self::Gauge => MetricType::GAUGE,
            Self::Histogram => MetricType::HISTOGRAM,
        }
    }
}

/// A type of family, for the table of definitions.
pub trait FamilyType {
    const KIND: MetricKind;
    type Labels: Labels;

    fn new(definition: Definition) -> Self;

    /// Writes the series that the family keeps, in the text format of Prometheus.
    ///
    /// # Errors
    /// When the encoder refuses a metric.
    fn write_kept(&self, text: &mut String) -> prometheus::Result<()>;
}

pub type Counter<L> = Family<L, IntCounter>;
pub type Gauge<L> = Family<L, prometheus::Gauge>;
pub type Histogram<L> = Family<L, prometheus::Histogram>;

pub type ScrapedCounter<L> = Scraped<L, CounterSample>;
pub type ScrapedGauge<L> = Scraped<L, GaugeSample>;

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
        let metrics = series.iter().map(|(labels, metric)| with_labels(metric.metric(), labels));
        let metrics = metrics.collect();
        drop(series);
        write(&self.definition, metrics, text)
    }
}

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
        let metrics =
            series.into_iter().map(|(labels, value)| with_labels(S::metric(value), &labels));
        write(&self.definition, metrics.collect(), text)
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

fn with_labels(mut metric: proto::Metric, labels: &impl Labels) -> proto::Metric {
    let mut pairs = Vec::new();
    labels.add_to(&mut pairs);
    metric.set_label(pairs);
    metric
}

fn write(
    definition: &Definition,
    metrics: Vec<proto::Metric>,
    text: &mut String,
) -> prometheus::Result<()> {
    if metrics.is_empty() {
        // The encoder refuses an empty family.
        return Ok(());
    }
    let mut family = MetricFamily::default();
    family.set_name(definition.name.to_owned());
    family.set_help(definition.help.to_owned());
    family.set_field_type(definition.kind.to_proto());
    family.set_metric(metrics);
    TextEncoder::new().encode_utf8(&[family], text)
}

/// Defines a struct with a field for each family, and `ALL`, their definitions.
///
/// `field: Type<Labels> = "name", "help";` and for a histogram, behind the help, `, BUCKETS`.
macro_rules! families {
    ($(#[$meta:meta])* pub struct $struct:ident {
        $($family:ident: $type:ty = $name:literal, $help:literal $(, $buckets:expr)?;)+
    }) => {
        $(#[$meta])*
        pub struct $struct {
            $(pub $family: $type,)+
        }

        /// All families, in the order of the documentation.
        pub const ALL: &[Definition] =
            &[$(families!(@definition $type, $name, $help $(, $buckets)?)),+];

        impl Default for $struct {
            fn default() -> Self {
                Self {
                    $($family: <$type as FamilyType>::new(
                        families!(@definition $type, $name, $help $(, $buckets)?)
                    ),)+
                }
            }
        }

        impl $struct {
            /// Writes the families that keep their series, in the text format of Prometheus.
            ///
            /// # Errors
            /// When the encoder refuses a metric.
            pub fn write_kept(&self, text: &mut String) -> prometheus::Result<()> {
                $(self.$family.write_kept(text)?;)+
                Ok(())
            }
        }
    };
    (@definition $type:ty, $name:literal, $help:literal $(, $buckets:expr)?) => {
        Definition {
            name: $name,
            kind: <$type as FamilyType>::KIND,
            labels: <<$type as FamilyType>::Labels as Labels>::labels,
            help: $help,
            buckets: families!(@buckets $($buckets)?),
        }
    };
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { $buckets };
}

pub(crate) use families;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::labels::labels;

    labels! {
        pub struct Names {
            /// of the pod
            name: Arc<str>,
        }
    }

    fn definition(kind: MetricKind) -> Definition {
        Definition {
            name: "pods",
            kind,
            labels: Names::labels,
            help: "Pods.",
            buckets: &[1.0, 2.0],
        }
    }

    fn name(name: &str) -> Names {
        Names { name: name.into() }
    }

    fn text(family: &impl FamilyType) -> String {
        let mut text = String::new();
        family.write_kept(&mut text).unwrap();
        text
    }

    #[test]
    fn series_that_are_replaced_or_not_retained_are_gone() {
        let gauge = Gauge::new(definition(MetricKind::Gauge));
        gauge.replace([(name("a"), 1.0), (name("b"), 2.0)]);
        gauge.replace([(name("b"), 3.0), (name("c"), 4.5)]);
        let head = "# HELP pods Pods.\n# TYPE pods gauge\n";
        assert_eq!(text(&gauge), format!("{head}pods{{name=\"b\"}} 3\npods{{name=\"c\"}} 4.5\n"));
        gauge.retain(|labels| &*labels.name == "c");
        assert_eq!(text(&gauge), format!("{head}pods{{name=\"c\"}} 4.5\n"));
        gauge.retain(|_| false);
        assert_eq!(text(&gauge), "");
    }

    #[test]
    fn a_series_keeps_its_value_and_its_text_is_escaped() {
        let counter = Counter::new(definition(MetricKind::Counter));
        counter.with(name("x\"\n\\")).inc_by(2);
        counter.with(name("x\"\n\\")).inc();
        assert!(
            text(&counter).ends_with("\npods{name=\"x\\\"\\n\\\\\"} 3\n"),
            "{}",
            text(&counter)
        );
    }

    #[test]
    fn a_histogram_has_the_buckets_of_its_definition() {
        let histogram = Histogram::new(definition(MetricKind::Histogram));
        histogram.with(name("a")).observe(1.5);
        let expected = "pods_bucket{name=\"a\",le=\"1\"} 0\npods_bucket{name=\"a\",le=\"2\"} 1\n\
                        pods_bucket{name=\"a\",le=\"+Inf\"} 1\npods_sum{name=\"a\"} 1.5\n\
                        pods_count{name=\"a\"} 1\n";
        assert!(text(&histogram).ends_with(expected), "{}", text(&histogram));
    }

    #[test]
    fn a_scraped_family_has_the_series_that_are_written() {
        let counter: ScrapedCounter<Names> = Scraped::new(definition(MetricKind::Counter));
        let mut text = String::new();
        counter.write([], &mut text).unwrap();
        assert_eq!(text, "");
        counter.write([(name("a"), 7.0)], &mut text).unwrap();
        assert_eq!(text, "# HELP pods Pods.\n# TYPE pods counter\npods{name=\"a\"} 7\n");
    }
}
