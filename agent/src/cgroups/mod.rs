//! Finds the cgroups of pods in the cgroup v2 hierarchy.
//!
//! The kubelet creates a pod's cgroup before the sandbox, and all processes of the pod are below it. So this one cgroup
//! identifies the pod from its first process to its last.
//!
//! `top` finds the hierarchy, `tree` walks it, `name` reads a pod's uid from a folder's name, `watch` says when folders
//! come and go.
//!
//! Called by the agent (excluded pods, nested namespaces), `check` and the data plane. Uses only the layouts. Reads
//! folders and writes nothing.

mod name;
mod top;
mod tree;
mod watch;

pub use self::{
    name::{OF_CHECKS, pod_of, service_of},
    top::is_top_of_a_node,
    tree::{PodCgroup, ROOT, Tree, paths_of},
    watch::Watcher,
};
