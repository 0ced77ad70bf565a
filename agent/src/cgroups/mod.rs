//! Where the kubelet puts pods in the cgroup v2 hierarchy.
//!
//! The kubelet makes a pod's cgroup before it makes the sandbox, and everything that ever runs in
//! the pod is below it, so a pod can be told by that one cgroup from its first process to its last.

mod name;
mod top;
mod tree;
mod watch;

pub use self::{
    name::OF_CHECKS,
    top::is_top_of_a_node,
    tree::{PodCgroup, ROOT, Tree, paths_of},
    watch::Watcher,
};
