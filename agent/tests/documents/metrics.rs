//! `metrics.md`, from `agent/src/telemetry/definitions/`.

use sockline::telemetry::{
    definitions::ALL,
    family::Definition,
    labels::{Label, Value},
};

use crate::{cell, head, row};

pub fn page() -> String {
    let mut page = head("Metrics", "agent/src/telemetry/definitions/");
    page += "The agent serves metrics at `/metrics`, by default at http://127.0.0.1:9470/metrics. No metric \
             has labels by pod or address. The series of a deleted Service disappear.\n\n";
    page += &row(&["metric", "type", "labels", "meaning"]);
    page += "|---|---|---|---|\n";
    for family in ALL {
        page += &line(family);
    }
    page +=
        "\nA histogram has the series `_bucket`, `_sum` and `_count`.\n\n## Values of labels\n\n";
    page += &row(&["label", "of", "values"]);
    page += "|---|---|---|\n";
    for (label, families) in labels() {
        page += &row(&[&format!("`{}`", label.name), &families, &cell(&meaning(&label))]);
    }
    page
}

fn line(Definition { name, kind, labels, help, .. }: &Definition) -> String {
    let labels: Vec<String> = labels().iter().map(|label| format!("`{}`", label.name)).collect();
    row(&[&format!("`{name}`"), kind.as_str(), &labels.join(", "), &cell(help)])
}

/// `of the object: … `, and its values where they are known.
fn meaning(label: &Label) -> String {
    let values: Vec<String> = label.values.iter().map(value).collect();
    if values.is_empty() {
        return label.meaning.to_owned();
    }
    let has_meanings = label.values.iter().any(|value| !value.meaning.is_empty());
    format!("{}. {}", label.meaning, values.join(if has_meanings { "; " } else { ", " }))
}

fn value(value: &Value) -> String {
    match value.meaning {
        "" => format!("`{}`", value.name),
        meaning => format!("`{}`: {meaning}", value.name),
    }
}

/// Each label once, with the families that have it.
fn labels() -> Vec<(Label, String)> {
    let mut labels: Vec<(Label, Vec<&str>)> = Vec::new();
    for family in ALL {
        for label in (family.labels)() {
            match labels.iter_mut().find(|(known, _)| *known == label) {
                Some((_, families)) => families.push(family.name),
                None => labels.push((label, vec![family.name])),
            }
        }
    }
    let of = |families: Vec<&str>| match families.len() {
        1..=3 => families.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        count => format!("{count} metrics"),
    };
    labels.into_iter().map(|(label, families)| (label, of(families))).collect()
}
