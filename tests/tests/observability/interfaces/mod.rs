//! The interfaces of the agent: metrics, health, the admin socket, the listing commands.

mod listings;
mod metrics;
mod options;

const SHIP: &str = "10.96.0.2";
