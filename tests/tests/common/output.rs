//! What the agent and the commands print: output, log lines and metrics.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::process::Output;

use serde_json::Value;
use sockline_testbed::{Agent, objects};

use super::{eventually, holds};

pub fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list but {list}"));
    list.iter().map(|entry| entry.as_str().unwrap().to_owned()).collect()
}

/// The standard error of a command.
/// `namespace/name` of the service of an item of a list.
pub fn service_of(item: &Value) -> String {
    let part = |name: &str| item["service"][name].as_str().unwrap().to_owned();
    format!("{}/{}", part("namespace"), part("name"))
}

/// Entries of a list as `sockline status` prints them: `OBJECT: FIELD: MESSAGE`, or a text.
pub fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list but {list}"));
    let text = |entry: &Value| {
        if let Some(text) = entry.as_str() {
            return text.to_owned();
        }
        let parts = ["object", "field", "message"].iter().filter_map(|part| entry[*part].as_str());
        parts.collect::<Vec<_>>().join(": ")
    };
    list.iter().map(text).collect()
}

/// The messages of the entries of a list.
pub fn messages(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list but {list}"));
    list.iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
}

/// The status of a condition in what `sockline status` prints.
pub fn condition(report: &Value, kind: &str) -> String {
    let conditions = report["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {report:#}"))["status"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The results that `sockline check -o json` printed.
pub fn results(output: &Output) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", error_of(output)));
    assert_eq!(report["kind"], "CheckReport");
    report["results"].as_array().unwrap().clone()
}

pub fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The value of a series in Prometheus text; `None` if it is not there.
pub fn series(metrics: &str, name: &str) -> Option<f64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

/// The series of connections that were translated to a service of `objects::web_service`.
pub fn translated(service: &str, protocol: &str) -> String {
    let namespace = objects::NAMESPACE;
    let port = if protocol == "TCP" { "web" } else { "dns" };
    format!(
        "sockline_connections_translated_total{{namespace=\"{namespace}\",service=\"{service}\",\
         port=\"{port}\",protocol=\"{protocol}\"}}"
    )
}

/// Log lines that contain a text.
pub fn lines_with(log: &str, text: &str) -> Vec<String> {
    log.lines().filter(|line| line.contains(text)).map(ToOwned::to_owned).collect()
}

/// Waits until a text is in this many lines of the log, which may follow what status and metrics say.
#[track_caller]
pub fn eventually_logged(agent: &Agent, text: &str, count: usize) {
    eventually(&format!("{count} lines of the log with {text:?}"), || {
        let log = agent.log();
        holds(lines_with(&log, text).len() >= count, log)
    });
}

/// Fails unless an input error is logged as exactly one warning.
#[track_caller]
pub fn assert_logged_once(agent: &Agent, input_error: &str) {
    eventually_logged(agent, input_error, 1);
    let log = agent.log();
    let lines = lines_with(&log, input_error);
    assert_eq!(lines.len(), 1, "{input_error:?} is not in the log exactly once: {log}");
    assert!(lines[0].contains("WARN"), "{}", lines[0]);
}
