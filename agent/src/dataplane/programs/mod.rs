//! The kernel programs: which kernel features they are loaded for, loading them, and attaching them to the
//! cgroup.
//!
//! [`features`] has one field for each kernel feature with a fallback, [`load`] the table of hooks, [`links`]
//! the pinned links, [`hook_state`] what readers see of a hook, [`kernel_log`] and `log_line` what the programs log,
//! [`run_stats`] how often they ran, `telemetry` where the fields of a socket are in this kernel, which the programs get as globals.
//!
//! Invariant: a program is replaced inside its link, so there is no moment without one.

pub mod features;
pub mod hook_state;
pub mod kernel_log;
pub mod links;
pub mod load;
mod log_line;
pub mod run_stats;
pub mod telemetry;
