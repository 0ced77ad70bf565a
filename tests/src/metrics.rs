//! Parses Prometheus text.

use std::collections::{BTreeMap, BTreeSet};

/// The series of one scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    series: Vec<Series>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Parses the text format; other lines are ignored.
    pub fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line);
        Self { series: series.collect() }
    }

    /// The values of a label among the series of this name, each once.
    pub fn label_values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let of_name = self.series.iter().filter(|series| series.name == name);
        of_name.filter_map(|series| series.labels.get(label)).map(String::as_str).collect()
    }

    /// The sum of the series of this name that have all these labels; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |series: &&Series| {
            series.name == name
                && labels.iter().all(|(label, value)| {
                    series.labels.get(*label).is_some_and(|found| found == value)
                })
        };
        self.series.iter().filter(matches).map(|series| series.value).sum()
    }
}

/// No label of Sockline has a quote, a comma or a brace in its value.
fn parse_line(line: &str) -> Option<Series> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels
        .split(',')
        .filter_map(|label| label.split_once('='))
        .map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    Some(Series { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_added_up_by_the_labels_asked_for() {
        let text = "# HELP a_total Things.\na_total{kind=\"x\",to=\"1\"} 3\n\
                    a_total{kind=\"x\",to=\"2\"} 4\na_total{kind=\"y\",to=\"1\"} 5\nb 0.5\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a_total", &[("kind", "x")]), 7.0);
        assert_eq!(metrics.sum("a_total", &[]), 12.0);
        assert_eq!(metrics.sum("b", &[]), 0.5);
        assert_eq!(metrics.sum("c", &[]), 0.0);
    }
}
