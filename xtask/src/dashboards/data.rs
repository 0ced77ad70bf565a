//! The series of a panel's queries.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde_json::Value;
use sockline_testbed::Prometheus;

use super::panels::{Kind, Panel};

/// Points of a line.
const POINTS: f64 = 120.0;

#[derive(Clone, Copy)]
pub(super) struct Period {
    /// Seconds since the epoch.
    pub(super) start: f64,
    pub(super) end: f64,
}

impl Period {
    pub(super) fn new(start: SystemTime, end: SystemTime) -> Result<Self> {
        let seconds = |time: SystemTime| -> Result<f64> {
            Ok(time.duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs_f64())
        };
        // The first rates need some scrapes.
        Ok(Self { start: seconds(start + Duration::from_secs(5))?, end: seconds(end)? })
    }

    pub(super) fn length(self) -> f64 {
        (self.end - self.start).max(1.0)
    }
}

/// A line, or a value of a table.
pub(super) struct Series {
    pub(super) name: String,
    /// Of the query in its panel.
    pub(super) query: usize,
    pub(super) labels: BTreeMap<String, String>,
    /// Times and values. One of a table has the last value only.
    pub(super) points: Vec<(f64, f64)>,
}

impl Series {
    pub(super) fn last(&self) -> Option<f64> {
        self.points.last().map(|(_, value)| *value)
    }
}

pub(super) fn series(
    prometheus: &Prometheus<'_>,
    panel: &Panel,
    variables: &[(&str, &str)],
    period: Period,
) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for (number, (expression, legend)) in panel.queries.iter().enumerate() {
        let mut expression = expression.replace("$__rate_interval", "10s").replace("[5m]", "[30s]");
        for (name, value) in variables {
            expression = expression.replace(&format!("${name}"), value);
        }
        let answer = if panel.kind == Kind::Table {
            prometheus.query(&expression)?
        } else {
            let step = period.length() / POINTS;
            prometheus.query_range(&expression, period.start, period.end, step)?
        };
        for one in &answer {
            let metric = one["metric"].as_object().into_iter().flatten();
            let labels: BTreeMap<String, String> = metric
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect();
            let values = one["values"].as_array().cloned();
            let points = values.unwrap_or_else(|| vec![one["value"].clone()]);
            all.push(Series {
                name: named(legend, &labels),
                query: number,
                labels,
                points: points.iter().filter_map(point).collect(),
            });
        }
    }
    Ok(all)
}

/// A legend with the labels' values in place of `{{label}}`.
fn named(legend: &str, labels: &BTreeMap<String, String>) -> String {
    labels
        .iter()
        .fold(legend.to_owned(), |name, (label, value)| {
            name.replace(&format!("{{{{{label}}}}}"), value)
        })
        .trim_start_matches("{{port}}/")
        .to_owned()
}

/// `[time, "value"]`; what is not a number is not drawn.
fn point(pair: &Value) -> Option<(f64, f64)> {
    let value: f64 = pair[1].as_str()?.parse().ok()?;
    value.is_finite().then_some((pair[0].as_f64()?, value))
}
