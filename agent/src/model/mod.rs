//! Plans: from Kubernetes objects to frontends and backends.
//!
//! The control loop applies the events of a source to [`index::Index`], which plans only what changed.
//! [`planner::plan`] plans everything at once; property tests compare the two. Both use
//! [`frontends::service_frontends`] (one service, with [`endpoints`]) and [`conflict`] (services that claim the same
//! address). The data plane writes the resulting [`plan`]. [`explain`] says for each endpoint why it is chosen or not
//! (`sockline trace`); [`exclusion`] and [`nested`] decide which pods and network namespaces are excluded, [`selector`]
//! which pods a label selector matches. [`node_addresses`] and [`other_nodes`] are where NodePorts are served,
//! [`probe_service`] is the Service of `sockline check`, [`limits`] what one object may have, `intern` stores equal names
//! once. [`event`] is what a source reports. Tests use `testing`.
//!
//! Invariants: pure (no I/O, no async, no kernel, no Kubernetes client), and it uses no other folder. A value that
//! exists in [`object`] is valid. The plan depends only on the objects.

pub mod conflict;
pub mod endpoints;
pub mod event;
pub mod exclusion;
pub mod explain;
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
pub(crate) mod testing;
