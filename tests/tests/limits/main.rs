//! A full map costs what does not fit, says so, and goes on when there is room; growing harms
//! nobody.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod backends;
mod beside;
mod frontends;
mod growing;
mod options;
mod other_nodes;
mod programs;
mod reclaim;
mod slots;
mod sockets;
mod whole;

use common::{EHOSTUNREACH, Stage, eventually, holds, series};
use serde_json::json;
use sockline_testbed::{Agent, objects};

pub fn address(number: usize) -> String {
    format!("10.96.{}.{}", number / 250, number % 250 + 1)
}

/// Services `s00`, `s01`, … in files of their own, one frontend and one backend per web pod each.
pub fn put_services(stage: &Stage, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let name = name(number);
        let slice = objects::slice(&name, &stage.addresses());
        let service = objects::web_service(&name, &address(number));
        stage.put(&format!("{name}.yaml"), &[service, slice]);
    }
}

pub fn name(number: usize) -> String {
    format!("s{number:02}")
}

pub fn not_in_sync(agent: &Agent) -> Option<f64> {
    series(&agent.metrics().unwrap(), "sockline_service_ports_out_of_sync")
}

/// How many of the services `s00` to `s11` are served; the others must be untouched.
pub fn served(stage: &Stage) -> usize {
    (0..12)
        .filter(|number| match stage.ask(&address(*number)) {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(EHOSTUNREACH) => false,
            Err(error) => panic!("{} is neither served nor untouched: {error}", address(*number)),
        })
        .count()
}

/// A web service at an address of its own, spread over these addresses.
pub fn put_spread(stage: &Stage, name: &str, cluster_ip: &str, backends: &[&str]) {
    let backends: Vec<_> = backends.iter().map(|address| common::ip(address)).collect();
    let service = objects::web_service(name, cluster_ip);
    stage.put(&format!("{name}.yaml"), &[service, objects::slice(name, &backends)]);
}

/// The same with more addresses.
pub fn put_broad(stage: &Stage, name: &str, ips: [&str; 3], backends: &[&str]) {
    let backends: Vec<_> = backends.iter().map(|address| common::ip(address)).collect();
    let mut service = objects::web_service(name, ips[0]);
    service["spec"]["externalIPs"] = json!(ips[1..]);
    stage.put(&format!("{name}.yaml"), &[service, objects::slice(name, &backends)]);
}

/// Waits until so many service ports are not in the kernel as planned.
#[track_caller]
pub fn eventually_not_in_sync(agent: &Agent, count: f64) {
    eventually(&format!("{count} service ports to be left out"), || {
        let seen = not_in_sync(agent);
        holds(seen == Some(count), format!("{seen:?}: {}", agent.log()))
    });
}

/// Waits until status says exactly this of what is not in the kernel.
#[track_caller]
pub fn eventually_failures(stage: &Stage, expected: &[&str]) {
    eventually(&format!("the failures {expected:?}"), || {
        let seen = stage.wrong("failures");
        holds(seen == expected, format!("{seen:#?}"))
    });
}

/// A gauge of a map: `entries`, `allocated_entries` or `max_entries`.
pub fn map(agent: &Agent, what: &str, map: &str) -> f64 {
    let metrics = agent.metrics().unwrap();
    let name = format!("sockline_bpf_map_{what}{{map=\"{map}\"}}");
    series(&metrics, &name).unwrap_or_else(|| panic!("no {name} in {metrics}"))
}
