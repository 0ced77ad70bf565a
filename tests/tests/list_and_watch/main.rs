//! The agent's copy of the cluster's objects is right, whatever happens to its lists and watches.
//!
//! The Kubernetes source is tested against a stand-in API server, and in `real` against a real one. Most
//! tests run in one process on tokio's paused clock, which advances only when every task waits: minutes of
//! backoff cost nothing, and no test depends on how busy the machine is. `over_tcp` uses real connections.
//! `histories` plays thousands of random histories of objects and faults. These tests have their own binary
//! because they need neither root nor a built agent.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod decoding;
mod expected;
mod histories;
mod in_process;
mod lists;
mod logs;
mod objects;
mod over_tcp;
mod proxy;
mod random;
mod real;
mod recorded;
mod refusals;
mod request_rate;
mod resuming;
#[path = "../../../agent/tests/support/source_state.rs"]
mod source_state;
mod watched;
