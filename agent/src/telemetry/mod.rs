//! Metrics: their definitions, their values, and their text.
//!
//! [`definitions`] has the table of all families. [`family`] and [`labels`] wrap the `prometheus` crate so that
//! the labels of a family are typed. [`Metrics`] is what the agent counts with, and writes the text of a scrape:
//! `connections`, `failing_backends` and `kernel` read the kernel's counters for it, `clients` those of client workloads, `programs` the
//! kernel programs' runs, `process` the agent's own usage. `agent/metrics_server.rs` serves it.

mod clients;
mod connections;
pub mod definitions;
mod failing_backends;
pub mod family;
mod kernel;
pub mod labels;
mod metrics;
mod process;
mod programs;

pub use self::{
    clients::{ClientFamilies, ClientReader, Dialect, SourceWorkloads},
    definitions::SyncScope,
    metrics::Metrics,
};
