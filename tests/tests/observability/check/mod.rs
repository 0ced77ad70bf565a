//! `sockline check` and `/readyz`: what is broken is reported, and what works is shown to work.

mod cgroups;
mod hooks;
mod maps;
mod output;
mod probe_service;
mod readiness;
mod without_an_agent;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;
use sockline_testbed::Agent;

use crate::common::{CART, WebNode, options};

const SHIP: &str = "10.96.0.2";

/// The agent does not repair damage.
fn serving() -> (WebNode, Agent) {
    WebNode::serving(1, &["--reconcile-interval", "3600s"])
}

/// The output of `sockline check`.
struct Report {
    exit: i32,
    /// The state and the text (detail and remedy) of each check.
    results: BTreeMap<String, (String, String)>,
}

impl Report {
    fn of(output: &Output) -> Self {
        let list = crate::common::results(output);
        let text = |result: &Value, field: &str| {
            result.get(field).map_or(String::new(), |text| text.as_str().unwrap().to_owned())
        };
        let results = list
            .iter()
            .map(|result| {
                let words = format!("{} → {}", text(result, "message"), text(result, "remedy"));
                (text(result, "check"), (text(result, "state"), words))
            })
            .collect();
        Self { exit: output.status.code().unwrap(), results }
    }

    /// The checks in a state.
    fn all(&self, state: &str) -> Vec<&str> {
        let of_state = self.results.iter().filter(|(_, (seen, _))| seen == state);
        of_state.map(|(check, _)| check.as_str()).collect()
    }

    #[track_caller]
    fn assert(&self, check: &str, state: &str, words: &str) {
        let Some((seen, text)) = self.results.get(check) else {
            panic!("no {check} in {:#?}", self.results)
        };
        assert_eq!(seen, state, "{check}: {text}; {:#?}", self.results);
        assert!(text.contains(words), "{check}: {text:?} does not say {words:?}");
    }

    #[track_caller]
    fn assert_all_ok(&self) {
        assert_eq!(
            (self.all("failed"), self.all("warning")),
            (vec![], vec![]),
            "{:#?}",
            self.results
        );
        assert_eq!(self.exit, 0);
    }
}

fn run(node: &WebNode, args: &[&str]) -> Output {
    let cgroup = node.cgroup().to_str().unwrap();
    node.look(&[&["check", "--cgroup-root", cgroup], args].concat())
}

#[track_caller]
fn check(node: &WebNode) -> Report {
    Report::of(&run(node, &["-o", "json"]))
}

const PLACES: [&str; 2] = ["fresh-cgroup", "host"];

const CONNECTS: [&str; 8] = [
    "tcp-ipv4",
    "tcp-ipv6",
    "udp-ipv4",
    "udp-ipv6",
    "refusal-ipv4",
    "refusal-ipv6",
    "untouched-ipv4",
    "untouched-ipv6",
];

/// The live checks.
fn live(connects: &[&str]) -> Vec<String> {
    let of = |place: &str| -> Vec<String> {
        connects.iter().map(|connect| format!("live.{place}.{connect}")).collect()
    };
    PLACES.into_iter().flat_map(of).collect()
}

#[track_caller]
fn assert_live_works(report: &Report) {
    for check in live(&CONNECTS) {
        report.assert(&check, "ok", "");
    }
}

fn fresh_cgroups(node: &WebNode) -> Vec<String> {
    let entries = fs::read_dir(node.cgroup()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("sockline-check")).collect()
}

fn on_an_inner_cgroup() -> (WebNode, Agent, PathBuf) {
    let node = WebNode::new(1);
    node.put_service("cart", CART);
    let inner = node.cgroup().join("inner");
    make_threaded(&inner);
    let mut options = options(&["--reconcile-interval", "3600s"]);
    options.cgroup = Some(inner.clone());
    let agent = node.agent(&options).unwrap();
    (node, agent, inner)
}

fn make_threaded(cgroup: &Path) {
    fs::create_dir(cgroup).unwrap();
    fs::write(cgroup.join("cgroup.type"), "threaded").unwrap();
}
