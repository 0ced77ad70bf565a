//! The Kubernetes source against the stand-in API server, and against a real one.
//!
//! Most of it runs in one process on a clock that stands still while anything can be done, so that
//! minutes of waiting cost nothing and no test depends on how busy the machine is. `over_tcp` shows
//! that the connection between does not matter. `histories` makes up thousands of histories of
//! objects and faults.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod decoding;
mod expected;
mod histories;
mod in_process;
mod lists;
mod objects;
mod over_tcp;
mod pace;
mod proxy;
mod random;
mod real;
mod recorded;
mod refusals;
mod resuming;
mod watched;
