//! The running agent.
//!
//! `cli` calls [`start`], which opens everything and drops privileges, and then [`run`](fn@run), which connects the tasks:
//! the source sends events to the control loop (`control/`), which plans and writes the maps; in parallel run the servers
//! of the metrics and of the admin socket. All other files here are parts that the control loop owns.
//!
//! Invariants: only the control loop writes the maps. The process ends when one of its tasks ends.

mod api_server;
mod background_job;
mod config;
mod control;
mod exclusion;
mod heartbeat;
mod nested_namespaces;
mod node_addresses;
mod reconcile;
mod run;
mod start;
mod status_publisher;

pub use self::{
    config::{Config, Source},
    run::run,
    start::{Started, start},
};
