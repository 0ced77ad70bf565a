//! Calls that are bypassed because of the agent: its own calls, and all calls when there was no agent for too
//! long.

mod deadline;
mod unconfirmed;

use std::net::SocketAddr;

use serde_json::Value;
use sockline::dataplane::Pins;
use sockline_testbed::bpf::RawMap;

use crate::common::{WebNode, ip};

/// A service without endpoints.
const EMPTY: &str = "10.96.0.2";

fn at_80(service: &str) -> SocketAddr {
    SocketAddr::new(ip(service), 80)
}

/// The agent's state that the programs read, written by the test.
struct State {
    map: RawMap,
}

impl State {
    fn of(node: &WebNode) -> Self {
        let path = Pins::in_bpffs(node.bpffs()).map("AGENT_STATE");
        Self { map: RawMap::pinned(&path).unwrap() }
    }

    fn get(&self, offset: usize) -> u64 {
        let value = self.map.get(&0u32.to_ne_bytes()).unwrap().unwrap();
        u64::from_ne_bytes(value[offset..][..8].try_into().unwrap())
    }

    fn set(&self, offset: usize, word: u64) {
        let key = 0u32.to_ne_bytes();
        let mut value = self.map.get(&key).unwrap().unwrap();
        value[offset..][..8].copy_from_slice(&word.to_ne_bytes());
        self.map.set(&key, &value).unwrap();
    }
}

/// The shortest deadline that is accepted.
const FAIL_OPEN: [&str; 2] = ["--fail-open-after", "10s"];

/// A service that another proxy serves as well, as kube-proxy would.
const TWICE: &str = "10.96.0.3";

fn check_result(node: &WebNode, check: &str) -> Value {
    let output = node.look(&["check", "-o", "json"]);
    let results = crate::common::results(&output);
    results.into_iter().find(|result| result["check"] == check).unwrap()
}
