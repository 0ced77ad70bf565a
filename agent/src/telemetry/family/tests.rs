//! What a scrape gets of each kind of family.

use std::sync::Arc;

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
    histogram.write([((), HistogramValue { buckets, sum: 9.5 })], &mut text).unwrap();
    let expected = "pods_bucket{le=\"1\"} 2\npods_bucket{le=\"2\"} 2\npods_bucket{le=\"+Inf\"} 5\n\
                    pods_sum 9.5\npods_count 5\n";
    assert!(text.ends_with(expected), "{text}");
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
