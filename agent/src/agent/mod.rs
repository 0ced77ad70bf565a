//! The running agent.
//!
//! `cli` calls [`start`], which opens everything and drops privileges, and then [`run`](fn@run), which connects the tasks:
//! the source sends events to the control loop (`control/`), which plans and writes the maps; in parallel run the servers
//! of the metrics (`metrics_server`) and of the admin socket. `config` is what the command line sets. The rest are parts that
//! the control loop owns:
//!
//! - what it asks: `node_addresses` (of this node), `nested_namespaces` and `exclusion` (of pods), `api_server` (where
//!   connections to the API server go);
//! - when it acts: `heartbeat` (how old the maps may be), `reconcile_schedule` (when drift is looked for), `background_job` (slow
//!   reads, beside the loop), `open_connections` (counts long connections while they are open, and connects that hang);
//! - what it publishes: `status_publisher`.
//!
//! Invariants: only the control loop writes the maps. The process ends when one of its tasks ends.

mod api_server;
mod background_job;
mod config;
mod control;
mod exclusion;
mod heartbeat;
mod metrics_server;
mod nested_namespaces;
mod node_addresses;
mod open_connections;
mod reconcile_schedule;
mod run;
mod start;
mod status_publisher;

pub use self::{
    config::{Config, Source},
    run::run,
    start::{Started, start},
};
