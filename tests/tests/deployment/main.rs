//! The manifests in `deploy/` and the commands in the documents fit the agent.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod alerts;
mod dashboards;
mod manifests;
mod transcripts;
