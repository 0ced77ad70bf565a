//! Metrics and health, over HTTP.

mod kernel;
mod metrics;
mod server;

pub use self::{metrics::Metrics, server::serve};
