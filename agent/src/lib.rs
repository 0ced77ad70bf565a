//! Sockline's node agent: loads the kernel programs, keeps their maps up to date with Kubernetes Services and
//! EndpointSlices, and reads their counters.
//!
//! Data flows one way: `source` → `model` → `dataplane`. `ARCHITECTURE.md` has the table of which module may use which.
//!
//! - From objects to the kernel: [`source`] (where objects come from), [`model`] (objects → plan), [`dataplane`] (a plan →
//!   the maps), `bpf` (system calls, and maps built on them).
//! - The node: [`mounts`] (cgroup v2 and the BPF file system), [`cgroups`] (where pods are), [`sock_destroy`] and `netlink`
//!   (closing and reading sockets).
//! - The running agent: [`agent`] (its tasks and the control loop), [`termination`] (closes sockets whose backend is gone),
//!   [`helper`] (the process that keeps the rights the agent gives up), [`privileges`] (gives them up), `malloc`.
//! - What is published: [`status`], [`telemetry`] (metrics), [`watch`] (events of connections), [`workloads`] (names of
//!   clients).
//! - For operators: [`cli`] (the commands), [`admin`] (the socket that they use), [`check`] (tests a node), `http` (the
//!   server of the admin socket and of the metrics), [`api`] (the form of JSON documents).
//! - Text and log: [`log_level`], [`log_on_change`] (errors that recur), [`error_chain`], [`escape`] (text from outside),
//!   [`duration`].

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
