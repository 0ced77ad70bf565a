//! Sockline's node agent: loads the kernel programs, keeps their maps up to date with Kubernetes Services and
//! EndpointSlices, and reads their counters.
//!
//! Data flows one way: `source` → `model` → `dataplane`. `telemetry` publishes metrics, `cli` and `admin` are
//! the interfaces for operators, and `check` tests a node.

pub mod admin;
pub mod agent;
pub mod api;
mod bpf;
pub mod cgroups;
pub mod check;
pub mod cli;
pub mod dataplane;
pub mod duration;
pub mod error_chain;
pub mod escape;
pub mod helper;
mod http;
pub mod log_level;
pub mod log_on_change;
mod malloc;
pub mod model;
pub mod mounts;
mod netlink;
pub mod privileges;
pub mod sock_destroy;
pub mod source;
pub mod status;
pub mod telemetry;
pub mod termination;
pub mod watch;
pub mod workloads;
