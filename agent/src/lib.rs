//! Sockline's node agent: loads the kernel programs, keeps their maps in step with Kubernetes
//! Services and EndpointSlices, and reads back what they count.
//!
//! Data flows one way: `source` → `model` → `dataplane`; `telemetry` reads the kernel back, `cli`
//! and `admin` are the faces; `check` tries whether all of it works.

pub mod admin;
pub mod agent;
pub mod cgroups;
pub mod check;
pub mod cli;
pub mod closing;
pub mod dataplane;
pub mod error_chain;
pub mod helper;
mod http;
pub mod log_on_change;
mod memory;
pub mod model;
mod netlink;
pub mod printable;
pub mod privileges;
pub mod source;
pub mod status;
pub mod telemetry;
