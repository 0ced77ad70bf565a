//! Kubernetes objects in, the desired frontends and backends out. Pure: no I/O, no async, no
//! kernel, no Kubernetes client.
//!
//! [`index::Index`] holds what a source last said and re-plans only what changed;
//! [`planner::plan`] plans everything at once. Both are built from
//! [`frontends::service_frontends`] (one service) and [`conflict`] (who keeps an address that two
//! services claim).

pub mod conflict;
pub mod endpoints;
pub mod event;
pub mod exclusion;
pub mod frontends;
pub mod index;
mod intern;
pub mod limits;
pub mod nested;
pub mod node_addresses;
pub mod object;
pub mod other_nodes;
pub mod plan;
pub mod planner;
pub mod probe_service;
pub mod selector;
#[cfg(test)]
mod testing;
