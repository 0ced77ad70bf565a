//! What the folders of end-to-end tests share: a node with servers and a client, waiting, what the agent prints, and
//! damage to the kernel state.

#![allow(
    dead_code,
    unused_imports,
    clippy::allow_attributes,
    reason = "each test binary uses its own part"
)]
#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

pub mod bpf;
pub mod damage;
pub mod foreign;
pub mod hammer;
mod lines;
mod output;
mod wait;
mod web_node;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use sockline_testbed::AgentOptions;

pub use self::{
    lines::{Lines, end_of},
    output::{
        assert_logged_once, condition, error_of, eventually_logged, lines_with, messages, results,
        series, service_of, strings, texts, translated,
    },
    wait::{DEADLINE, eventually, holds},
    web_node::{CART, EHOSTUNREACH, Web, WebNode, untouched},
};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Options of an agent that reconciles every second.
pub const REPAIRS: [&str; 2] = ["--reconcile-interval", "1s"];

pub fn options(args: &[&str]) -> AgentOptions {
    AgentOptions { args: args.iter().map(ToString::to_string).collect(), ..Default::default() }
}

/// Fixtures recorded from a real cluster.
pub fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}
