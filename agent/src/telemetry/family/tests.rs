//! What a scrape gets of each kind of family.

use std::sync::Arc;

use prometheus::proto;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::telemetry::labels::{Labels, labels};

labels! {
    pub struct Names {
        /// of the pod
        name: Arc<str>,
    }
}

fn definition(kind: MetricKind) -> Definition {
    Definition { name: "pods", kind, labels: Names::labels, help: "Pods.", buckets: &[1.0, 2.0] }
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
    assert!(text(&counter).ends_with("\npods{name=\"x\\\"\\n\\\\\"} 3\n"), "{}", text(&counter));
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
fn a_scraped_histogram_counts_up() {
    let histogram: ScrapedHistogram<()> = Scraped::new(definition(MetricKind::Histogram));
    let buckets = vec![(1.0, 2), (2.0, 0), (f64::INFINITY, 3)];
    let mut text = String::new();
    histogram.write([((), HistogramValue { buckets, sum: 9.5 })], &mut text);
    let expected = "pods_bucket{le=\"1\"} 2\npods_bucket{le=\"2\"} 2\npods_bucket{le=\"+Inf\"} 5\n\
                    pods_sum 9.5\npods_count 5\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_scraped_family_has_the_series_that_are_written() {
    let counter: ScrapedCounter<Names> = Scraped::new(definition(MetricKind::Counter));
    let mut text = String::new();
    counter.write([], &mut text);
    assert_eq!(text, "");
    counter.write([(name("a"), 7.0)], &mut text);
    assert_eq!(text, "# HELP pods Pods.\n# TYPE pods counter\npods{name=\"a\"} 7\n");
}

#[test]
fn a_value_without_a_bound_is_written_as_prometheus_reads_it() {
    let gauge: ScrapedGauge<()> = Scraped::new(definition(MetricKind::Gauge));
    let mut text = String::new();
    gauge.write([((), f64::INFINITY)], &mut text);
    assert!(text.ends_with("\npods +Inf\n"), "{text}");
}

/// The series of a family that the encoder of the `prometheus` crate writes.
fn written_by_the_library(kind: MetricKind, series: Vec<(Names, proto::Metric)>) -> String {
    let mut text = String::new();
    let metrics =
        series.into_iter().map(|(labels, metric)| exposition::with_labels(metric, &labels));
    exposition::write(&definition(kind), metrics.collect(), &mut text).unwrap();
    text
}

proptest! {
    #[test]
    fn what_is_scraped_has_the_text_that_the_library_writes(
        names in vec(".*|[\\\\\"\n a]{0,6}", 0..4),
        value in any::<f64>().prop_filter("is finite", |value| value.is_finite()),
        integer in any::<u64>(),
        counts in vec(0..u64::MAX >> 16, 3),
    ) {
        for value in [value, integer as f64, 0.0] {
            let counter: ScrapedCounter<Names> = Scraped::new(definition(MetricKind::Counter));
            let mut text = String::new();
            counter.write(names.iter().map(|it| (name(it), value)), &mut text);
            let metric = || {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                let mut metric = proto::Metric::default();
                metric.set_counter(counter);
                metric
            };
            let series = names.iter().map(|it| (name(it), metric())).collect();
            prop_assert_eq!(text, written_by_the_library(MetricKind::Counter, series));
        }
        let histogram: ScrapedHistogram<Names> = Scraped::new(definition(MetricKind::Histogram));
        let bounds = [0.000_016, 2.5, f64::INFINITY];
        let buckets: Vec<_> = bounds.into_iter().zip(counts.iter().copied()).collect();
        let mut text = String::new();
        let samples =
            names.iter().map(|it| (name(it), HistogramValue { buckets: buckets.clone(), sum: value }));
        histogram.write(samples, &mut text);
        let metric = || {
            let mut histogram = proto::Histogram::default();
            let mut count = 0;
            let mut cumulative = Vec::new();
            for &(bound, values) in &buckets {
                count += values;
                // The library adds the last one.
                if bound.is_infinite() {
                    continue;
                }
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                cumulative.push(bucket);
            }
            histogram.set_bucket(cumulative);
            histogram.set_sample_count(count);
            histogram.set_sample_sum(value);
            let mut metric = proto::Metric::default();
            metric.set_histogram(histogram);
            metric
        };
        let series = names.iter().map(|it| (name(it), metric())).collect();
        prop_assert_eq!(text, written_by_the_library(MetricKind::Histogram, series));
    }
}
