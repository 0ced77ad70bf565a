//! Metrics and health, over HTTP.
//!
//! [`definitions`] has the table of all families. [`family`] and [`labels`] wrap the `prometheus` crate so that
//! the labels of a family are typed. [`Metrics`] is what the agent counts with.

mod connections;
pub mod definitions;
pub mod family;
mod kernel;
pub mod labels;
mod metrics;
mod process;
mod server;

pub use self::{definitions::SyncScope, metrics::Metrics, server::serve};
