//! Who connects: the pods and workloads of client cgroups.
//!
//! The programs know a client by the id of its cgroup. `watch` names the clients of events with a [`Resolver`]; metrics
//! and the admin socket (for `sockline map` and `top`) share another one.
//!
//! - `resolver`: names of cgroups, looked up in the cgroup hierarchy and by the control loop, and kept.
//! - `client`: what is known of a client, and the reference to a workload in documents.
//! - `names`: the documents of the admin socket.
//! - `growth`: how much the counts of clients grew between two readings.
//!
//! Invariant: a name that was known of a cgroup stays, because the kernel does not use an id again.

mod client;
mod growth;
mod names;
mod resolver;

pub use self::{
    client::{Client, WorkloadRef},
    growth::{Growth, Readings},
    names::{ClientNames, ClientQuery, NamedClient},
    resolver::{AskPods, NamedPod, PodQuery, Resolver, SharedResolver},
};
