//! What is written from the code: of `deploy/docs`, the command line, its JSON, the metrics, and the labels and
//! annotations, and pictures of `sockline top` and `sockline map`; of `deploy/components`, the alerts for the Prometheus
//! operator; of `deploy/monitoring`, the dashboards.
//!
//! `cargo xtask docs` writes them; these tests fail where they differ, and where a document mentions what does not exist.

mod annotations;
mod cli;
mod dashboards;
mod json;
mod map;
mod mentions;
mod metrics;
mod picture;
mod rules;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Set: the pages are written and not compared.
const WRITE: &str = "SOCKLINE_WRITE_DOCUMENTS";

fn assert_current(page: &str, text: &str) {
    let path = in_deploy(page);
    if env::var_os(WRITE).is_some() {
        fs::write(&path, text).expect("the page can be written");
        return;
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let differing = there.lines().zip(text.lines()).find(|(old, new)| old != new);
    assert!(
        there == text,
        "deploy/{page} is not current: run `cargo xtask docs`; first difference: {differing:?}"
    );
}

fn in_deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

/// The head of a page. `source` is where what it says is defined.
fn head(title: &str, source: &str) -> String {
    format!("<!-- Written by `cargo xtask docs` from {source}. Do not edit. -->\n\n# {title}\n\n")
}

/// Text as the cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
        .split('`')
        .enumerate()
        // In code every other character stands for itself.
        .map(|(place, text)| match place % 2 {
            0 => text.replace('<', "&lt;").replace('*', "\\*"),
            _ => text.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("`")
}

fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

#[test]
fn page_of_the_command_line_is_current() {
    assert_current("docs/cli.md", &cli::page());
}

#[test]
fn page_of_the_json_is_current() {
    assert_current("docs/json.md", &json::page());
}

#[test]
fn page_of_the_metrics_is_current() {
    assert_current("docs/metrics.md", &metrics::page());
}

#[test]
fn page_of_the_annotations_is_current() {
    assert_current("docs/annotations.md", &annotations::page());
}

#[test]
fn rules_for_the_prometheus_operator_are_current() {
    assert_current("components/prometheus-operator/prometheus-rule.yaml", &rules::object());
}

#[test]
fn pictures_of_top_are_current() {
    assert_current("docs/pictures/top.svg", &picture::services());
    assert_current("docs/pictures/top-service.svg", &picture::service());
}

#[test]
fn picture_of_the_map_is_current() {
    assert_current("docs/pictures/map.svg", &map::svg());
}

#[test]
fn dashboards_are_current() {
    for (file, text) in dashboards::files() {
        assert_current(&file, &text);
    }
}
