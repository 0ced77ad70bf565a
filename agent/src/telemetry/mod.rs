//! Metrics and health, over HTTP.

pub mod definitions;
mod kernel;
mod metrics;
mod server;

pub use self::{metrics::Metrics, server::serve};
