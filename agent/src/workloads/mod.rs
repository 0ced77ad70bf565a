//! Who connects: the pods and workloads of client cgroups.
//!
//! The programs know a client by the id of its cgroup. `watch` names the clients of events with a [`Resolver`].
//!
//! - `resolver`: names of cgroups, looked up in the cgroup hierarchy and by the control loop, and kept.
//! - `client`: what is known of a client, and the reference to a workload in documents.
//!
//! Invariant: a name that was known of a cgroup stays, because the kernel does not use an id again.

mod client;
mod resolver;

pub use self::{
    client::{Client, WorkloadRef},
    resolver::{AskPods, NamedPod, PodQuery, Resolver},
};
