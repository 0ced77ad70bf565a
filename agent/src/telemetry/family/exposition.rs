//! Series in the text format of Prometheus.
//!
//! The encoder of the `prometheus` crate writes the families that keep their series. Those that a scrape reads, which may
//! be a million series, are written here: the crate's encoder took four times as long, for it makes strings of all
//! labels of each line. Source of the format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write as _;

use prometheus::{
    TextEncoder,
    proto::{self, LabelPair, MetricFamily},
};

use super::definition::Definition;
use crate::telemetry::labels::Labels;

pub(super) fn with_labels(mut metric: proto::Metric, labels: &impl Labels) -> proto::Metric {
    let mut pairs = Vec::new();
    labels.for_each(&mut |name, value| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pairs.push(pair);
    });
    metric.set_label(pairs);
    metric
}

pub(super) fn write(
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

/// Writes help and type.
pub(super) fn write_head(definition: &Definition, text: &mut String) {
    let Definition { name, help, kind, .. } = definition;
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    text.extend(["# HELP ", name, " ", &help, "\n# TYPE ", name, " ", kind.as_str(), "\n"]);
}

/// The labels of a series, as they stand between the braces.
pub(super) fn labels(labels: &impl Labels, into: &mut String) {
    into.clear();
    labels.for_each(&mut |name, value| {
        if !into.is_empty() {
            into.push(',');
        }
        into.extend([name, "=\""]);
        for part in value.split_inclusive(['\\', '"', '\n']) {
            let end = match part.chars().next_back() {
                Some('\\') => "\\\\",
                Some('"') => "\\\"",
                Some('\n') => "\\n",
                _ => {
                    into.push_str(part);
                    continue;
                }
            };
            into.extend([&part[..part.len() - 1], end]);
        }
        into.push('"');
    });
}

/// A line of a family. `suffix` is appended to its name, and `bound` is the upper bound of a bucket.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) suffix: &'a str,
    pub(super) labels: &'a str,
    pub(super) bound: Option<f64>,
}

impl Line<'_> {
    pub(super) fn write(&self, value: f64, text: &mut String) {
        text.extend([self.name, self.suffix]);
        let opened = if self.labels.is_empty() { "{" } else { "," };
        if !self.labels.is_empty() {
            text.extend(["{", self.labels]);
        }
        if let Some(bound) = self.bound {
            text.extend([opened, "le=\""]);
            number(bound, text);
            text.push('"');
        }
        if self.bound.is_some() || !self.labels.is_empty() {
            text.push('}');
        }
        text.push(' ');
        number(value, text);
        text.push('\n');
    }
}

/// Integers, which most values are, are written as such: the text is the same, and it takes a third of the time.
fn number(value: f64, text: &mut String) {
    /// Up to here, all integers are floating-point numbers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    // Writing to a string does not fail.
    let _ = if value == f64::INFINITY {
        text.write_str("+Inf")
    } else if (1.0..EXACT).contains(&value) && value.fract() == 0.0 {
        write!(text, "{}", value as u64)
    } else {
        write!(text, "{value}")
    };
}
