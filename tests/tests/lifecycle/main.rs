//! An agent can be started, restarted, upgraded, rolled back and uninstalled without a lost connection.
//!
//! The kernel state outlives the agent. An agent that cannot start says why in one line.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod cleanup;
mod restart;
mod startup;
mod upgrade;
