//! `metrics.md`, from `agent/src/telemetry/definitions.rs`.

use sockline::telemetry::definitions::{ALL, Label, Metric};

use crate::{cell, head, row};

pub fn page() -> String {
    let mut page = head("Metrics", "agent/src/telemetry/definitions.rs");
    page += "The agent serves them at `/metrics`, by default at http://127.0.0.1:9470/metrics. No metric has \
             labels by pod or address. The series of a deleted Service disappear.\n\n";
    page += &row(&["metric", "type", "labels", "meaning"]);
    page += "|---|---|---|---|\n";
    for metric in ALL {
        page += &line(metric);
    }
    page +=
        "\nA histogram has the series `_bucket`, `_sum` and `_count`.\n\n## Values of labels\n\n";
    page += &row(&["label", "of", "values"]);
    page += "|---|---|---|\n";
    for (label, metrics) in labels() {
        page += &row(&[&format!("`{}`", label.name), &metrics, &cell(label.values)]);
    }
    page
}

fn line(Metric { name, kind, labels, help }: &Metric) -> String {
    let labels: Vec<String> = labels.iter().map(|label| format!("`{}`", label.name)).collect();
    row(&[&format!("`{name}`"), kind.as_str(), &labels.join(", "), &cell(help)])
}

/// Each label once, with the metrics that have it.
fn labels() -> Vec<(&'static Label, String)> {
    let mut labels: Vec<(&Label, Vec<&str>)> = Vec::new();
    for metric in ALL {
        for label in metric.labels {
            match labels.iter_mut().find(|(known, _)| *known == label) {
                Some((_, metrics)) => metrics.push(metric.name),
                None => labels.push((label, vec![metric.name])),
            }
        }
    }
    let of = |metrics: Vec<&str>| match metrics.len() {
        1..=3 => metrics.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        count => format!("{count} metrics"),
    };
    labels.into_iter().map(|(label, metrics)| (label, of(metrics))).collect()
}
