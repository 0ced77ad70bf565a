//! Calls of excluded pods and calls to excluded services are not changed.
//!
//! Network namespaces that were made inside of pods, as by a cluster in a container, can be excluded, too.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod nested_namespaces;
mod pods_and_services;
