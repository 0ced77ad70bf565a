//! A node port is served at the addresses of nodes, and nowhere else.
//!
//! The node's own addresses change while the agent runs, and other nodes come and go at the API server.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod node_addresses;
mod other_nodes;
mod reachability;
