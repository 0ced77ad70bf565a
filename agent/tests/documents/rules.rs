//! The alerts as an object of the Prometheus operator, and their runbooks.

use std::{collections::BTreeSet, fs};

use sockline::telemetry::definitions;

use crate::in_deploy;

const RULES: &str = "monitoring/sockline.rules.yml";

/// The object: its head, and below `spec` the groups of the rule file.
pub fn object() -> String {
    let groups = rules().lines().skip_while(|line| *line != "groups:").fold(
        String::new(),
        |mut groups, line| {
            if !line.is_empty() {
                groups += "  ";
            }
            groups += line;
            groups.push('\n');
            groups
        },
    );
    format!(
        "# Written by `cargo xtask docs` from deploy/{RULES}. Do not edit.\n\
         apiVersion: monitoring.coreos.com/v1\n\
         kind: PrometheusRule\n\
         metadata:\n  name: sockline\n  namespace: sockline-system\n  labels:\n    \
         app.kubernetes.io/name: sockline\n\
         spec:\n{groups}"
    )
}

fn rules() -> String {
    fs::read_to_string(in_deploy(RULES)).expect("the rule file can be read")
}

/// Values of a key in the rule file, in order.
fn values<'a>(rules: &'a str, key: &str) -> Vec<&'a str> {
    let values = rules.lines().filter_map(|line| {
        line.trim_start().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ")
    });
    values.collect()
}

#[test]
fn each_alert_has_its_runbook_and_each_runbook_its_alert() {
    let rules = rules();
    let alerts = values(&rules, "alert");
    assert!(alerts.len() > 10, "{alerts:?}");
    let links: Vec<String> = alerts
        .iter()
        .map(|alert| format!("deploy/docs/runbooks.md#{}", alert.to_lowercase()))
        .collect();
    assert_eq!(values(&rules, "runbook_url"), links);
    let page = fs::read_to_string(in_deploy("docs/runbooks.md")).expect("the page can be read");
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(headings, alerts);
}

#[test]
fn each_alert_has_a_unit_test() {
    let tests = fs::read_to_string(in_deploy("monitoring/sockline.rules.test.yml"))
        .expect("the unit tests can be read");
    for alert in values(&rules(), "alert") {
        let is_tested = tests.contains(&format!("alertname: {alert}\n"))
            || tests.contains(&format!("alertname=\"{alert}\""));
        assert!(is_tested, "sockline.rules.test.yml has no test of {alert}");
    }
}

#[test]
fn every_metric_in_the_alerts_and_their_tests_is_one_of_the_agent() {
    let tests = fs::read_to_string(in_deploy("monitoring/sockline.rules.test.yml"))
        .expect("the unit tests can be read");
    let text = rules() + &tests;
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let mentioned: BTreeSet<&str> = text
        .match_indices("sockline_")
        .map(|(at, _)| text[at..].split(|c| !is_of_name(c)).next().unwrap_or_default())
        .collect();
    assert!(mentioned.len() > 10, "{mentioned:?}");
    for name in mentioned {
        let family = name.strip_suffix("_bucket").unwrap_or(name);
        let is_there = definitions::ALL.iter().any(|metric| metric.name == family);
        assert!(is_there, "there is no metric {name}");
    }
}
