//! Pods whose connections are not translated.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{exclusion::Reason, object::ObjectName};

/// An excluded pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExcludedPod {
    #[serde(flatten)]
    pub pod: PodRef,
    /// What excludes it.
    pub reason: Reason,
    /// Whether the exclusion is in effect.
    pub state: ExclusionState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExclusionState {
    /// Its connections are not translated.
    Excluded,
    /// It has no cgroup yet, and so no process.
    Starting,
    /// It runs, but its cgroup was not found: its connections are translated.
    CgroupNotFound,
    /// The map has no room for its cgroup: its connections are translated.
    NoRoom,
}

/// The nested network namespaces of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NestedNamespaces {
    #[serde(flatten)]
    pub pod: PodRef,
    /// The number of network namespaces that were created inside the pod and call Services.
    pub namespaces: usize,
    /// Whether they are excluded (`--exclude-nested-namespaces`): their calls are not translated.
    pub excluded: bool,
}

/// A pod, by its name if the source has it, and by the UID of its cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PodRef {
    /// The pod's namespace; absent if the agent knows only the pod's cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The pod's name; absent if the agent knows only the pod's cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The pod's UID, as in the name of its cgroup.
    pub uid: String,
}

impl PodRef {
    #[must_use]
    pub fn new(name: Option<&ObjectName>, uid: &str) -> Self {
        Self {
            namespace: name.map(|name| name.namespace.to_string()),
            name: name.map(|name| name.name.to_string()),
            uid: uid.to_owned(),
        }
    }
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, "{namespace}/{name}"),
            _ => write!(f, "uid {}", self.uid),
        }
    }
}
