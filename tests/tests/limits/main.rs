//! A full map affects only the services that do not fit. They are reported, and served when there is room.
//! Growing maps interrupt no service.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod atomic_change;
mod backends;
mod frontends;
mod growing;
mod options;
mod other_nodes;
mod other_services;
mod programs;
mod reclaim;
mod slots;
mod sockets;

use common::{EHOSTUNREACH, WebNode, eventually, holds, series};
use serde_json::json;
use sockline_testbed::{Agent, objects};

pub fn address(number: usize) -> String {
    format!("10.96.{}.{}", number / 250, number % 250 + 1)
}

/// Services `s00`, `s01`, … in separate files, each with one frontend and one backend per web pod.
pub fn put_services(node: &WebNode, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let name = name(number);
        let slice = objects::slice(&name, &node.web_addresses());
        let service = objects::web_service(&name, &address(number));
        node.put(&format!("{name}.yaml"), &[service, slice]);
    }
}

pub fn name(number: usize) -> String {
    format!("s{number:02}")
}

/// How many service ports are out of sync.
pub fn out_of_sync_count(agent: &Agent) -> Option<f64> {
    series(&agent.metrics().unwrap(), "sockline_service_ports_out_of_sync")
}

/// How many of the services `s00` to `s11` are served; calls to the others must not be translated.
pub fn served(node: &WebNode) -> usize {
    (0..12)
        .filter(|number| match node.ask(&address(*number)) {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(EHOSTUNREACH) => false,
            Err(error) => panic!("{} is neither served nor untouched: {error}", address(*number)),
        })
        .count()
}

/// A web service at this cluster IP with these backends.
pub fn put_spread(node: &WebNode, name: &str, cluster_ip: &str, backends: &[&str]) {
    let backends: Vec<_> = backends.iter().map(|address| common::ip(address)).collect();
    let service = objects::web_service(name, cluster_ip);
    node.put(&format!("{name}.yaml"), &[service, objects::slice(name, &backends)]);
}

/// The same with more addresses.
pub fn put_broad(node: &WebNode, name: &str, ips: [&str; 3], backends: &[&str]) {
    let backends: Vec<_> = backends.iter().map(|address| common::ip(address)).collect();
    let mut service = objects::web_service(name, ips[0]);
    service["spec"]["externalIPs"] = json!(ips[1..]);
    node.put(&format!("{name}.yaml"), &[service, objects::slice(name, &backends)]);
}

/// Waits until this many service ports are out of sync.
#[track_caller]
pub fn eventually_out_of_sync_count(agent: &Agent, count: f64) {
    eventually(&format!("{count} service ports to be out of sync"), || {
        let seen = out_of_sync_count(agent);
        holds(seen == Some(count), format!("{seen:?}: {}", agent.log()))
    });
}

/// Waits until the status lists exactly these service ports and nodes as out of sync.
#[track_caller]
pub fn eventually_out_of_sync(node: &WebNode, expected: &[&str]) {
    eventually(&format!("{expected:?} to be out of sync"), || {
        let seen = node.wrong("outOfSync");
        holds(seen == expected, format!("{seen:#?}"))
    });
}

/// A gauge of a map: `entries`, `allocated_entries` or `max_entries`.
pub fn map(agent: &Agent, what: &str, map: &str) -> f64 {
    let metrics = agent.metrics().unwrap();
    let name = format!("sockline_bpf_map_{what}{{map=\"{map}\"}}");
    series(&metrics, &name).unwrap_or_else(|| panic!("no {name} in {metrics}"))
}
