//! The agent follows its source of objects: the API server, or a folder of manifests.
//!
//! An outage of the API server changes nothing for services, and the agent reconnects when it is over. An
//! invalid object is reported and costs only itself.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod api_server_outage;
mod invalid_objects;
mod kubernetes;
mod traffic_class;
