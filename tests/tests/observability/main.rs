//! Metrics, health, status and checks show what the agent and the kernel do, and what is wrong.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod blocked_loop;
mod check;
mod counters;
mod interfaces;
mod json;
mod map;
mod schema;
mod telemetry;
mod top;
mod trace;
