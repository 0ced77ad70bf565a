//! A Pod.

use std::{collections::BTreeMap, sync::Arc};

use super::{redirect::Redirect, reference::ObjectName, workload::Workload};

/// A Pod, as far as it matters to exclude it, or to name it as a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: ObjectName,
    /// `spec.nodeName`; `None` before it is scheduled.
    pub node: Option<Arc<str>>,
    /// What the kubelet names the pod's cgroup by: `metadata.uid`, or for the mirror of a static
    /// pod the annotation `kubernetes.io/config.hash`.
    pub cgroup_uid: Arc<str>,
    /// `None` without a label and annotation.
    pub redirect: Option<Redirect>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub phase: PodPhase,
    pub workload: Workload,
}

/// `status.phase`, cut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// It has a cgroup soon, or has one already: its containers may be starting.
    Pending,
    /// It has a cgroup.
    Running,
    /// Succeeded or Failed: none of its processes is left.
    Ended,
}
