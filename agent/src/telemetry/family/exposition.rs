//! Series in the text format of Prometheus.
//!
//! The encoder of the `prometheus` crate writes the families that keep their series. Those that a scrape reads, which may
//! be a million series, are written here: the crate's encoder took several times as long, for it makes strings of all
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
        if value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
            escape(value, into);
        } else {
            into.push_str(value);
        }
        into.push('"');
    });
}

fn escape(value: &str, into: &mut String) {
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
}

/// A line of a family. `suffix` is appended to its name.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) suffix: &'a str,
    pub(super) labels: &'a str,
}

impl Line<'_> {
    pub(super) fn write(&self, value: f64, text: &mut String) {
        text.extend([self.name, self.suffix]);
        if !self.labels.is_empty() {
            text.extend(["{", self.labels, "}"]);
        }
        text.push(' ');
        number(value, text);
        text.push('\n');
    }
}

/// Writes the lines of a histogram's buckets: what the bounds and their lines have in common is made once.
#[derive(Debug, Default)]
pub struct Buckets {
    /// The bounds of the last series, as text.
    bounds: Vec<(f64, String)>,
    /// All of a line before its bound.
    prefix: String,
}

impl Buckets {
    /// Writes the buckets of a series, each with its upper bound, and returns the number of values in all.
    pub(super) fn write(
        &mut self,
        (name, labels): (&str, &str),
        buckets: &[(f64, u64)],
        text: &mut String,
    ) -> u64 {
        self.prefix.clear();
        self.prefix.extend([name, "_bucket{", labels]);
        self.prefix.push_str(if labels.is_empty() { "le=\"" } else { ",le=\"" });
        self.bounds.resize_with(buckets.len(), || (f64::NAN, String::new()));
        let mut count = 0;
        for (&(bound, values), (known, bound_text)) in buckets.iter().zip(&mut self.bounds) {
            if *known != bound {
                *known = bound;
                bound_text.clear();
                number(bound, bound_text);
            }
            count += values;
            text.extend([&self.prefix, bound_text.as_str(), "\"} "]);
            number(count as f64, text);
            text.push('\n');
        }
        count
    }
}

/// Integers, which most values are, are written as such: the text is the same, and it takes a third of the time.
fn number(value: f64, text: &mut String) {
    /// Up to here, all integers are floating-point numbers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    // Writing to a string does not fail.
    let _ = if value == 0.0 && value.is_sign_positive() {
        text.write_char('0')
    } else if value == f64::INFINITY {
        text.write_str("+Inf")
    } else if (1.0..EXACT).contains(&value) && value.fract() == 0.0 {
        write!(text, "{}", value as u64)
    } else {
        write!(text, "{value}")
    };
}
