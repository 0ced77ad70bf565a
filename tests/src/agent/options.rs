//! How an agent is started.

use std::{path::PathBuf, process::Command, time::Duration};

use crate::DEADLINE;

/// The cgroup of an agent's own sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AgentCgroup {
    /// Outside of the node's cgroup: its programs do not see the agent's calls.
    #[default]
    OutsideOfNode,
    /// In the node's cgroup, as a pod with `hostNetwork: true` is on a real node.
    InNode,
}

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The name of the node it runs on.
    pub node_name: String,
    /// Where its manifests are; the node's own folder if `None`.
    pub manifests: Option<PathBuf>,
    /// The kubeconfig of an API server to use in place of manifests.
    pub kubeconfig: Option<PathBuf>,
    /// The binary; the one that [`sockline_binary`](super::sockline_binary) finds if `None`.
    pub binary: Option<PathBuf>,
    /// The cgroup to attach to; the node's own if `None`.
    pub cgroup: Option<PathBuf>,
    /// The folder in bpffs for its pins; the node's own if `None`.
    pub bpffs: Option<PathBuf>,
    pub cgroup_of_agent: AgentCgroup,
    /// More arguments of `sockline agent`.
    pub args: Vec<String>,
    /// More environment variables, such as `RUST_LOG`.
    pub env: Vec<(String, String)>,
    /// Changes the command before it is started.
    pub prepare: Option<fn(&mut Command)>,
    /// Whether to wait until the first sync is in the kernel, or only until the agent answers.
    pub until_ready: bool,
    /// How long that may take.
    pub ready_within: Duration,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            node_name: "node-a".to_owned(),
            manifests: None,
            kubeconfig: None,
            binary: None,
            cgroup: None,
            bpffs: None,
            cgroup_of_agent: AgentCgroup::default(),
            args: Vec::new(),
            env: Vec::new(),
            prepare: None,
            until_ready: true,
            ready_within: DEADLINE,
        }
    }
}
