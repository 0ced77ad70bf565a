//! What is known of a client.

use std::{fmt, path::Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    cgroups,
    model::object::{ObjectName, Workload},
    status::PodRef,
};

/// What a client is a part of.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct WorkloadRef {
    /// Its namespace; absent for processes of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `Deployment`, `StatefulSet` or any other kind that controls the pod; `Pod` if nothing does. For processes of the
    /// node `SystemdService`, or `Node` if they belong to no service of systemd.
    pub kind: String,
    /// Its name; `node` for the kind `Node`.
    pub name: String,
}

impl WorkloadRef {
    /// The workload of a pod in this namespace.
    #[must_use]
    pub fn of_pod(namespace: &str, workload: &Workload) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            kind: workload.kind.to_string(),
            name: workload.name.to_string(),
        }
    }

    /// Processes of the node in the cgroup with this path, which is no pod's.
    #[must_use]
    pub fn of_node(cgroup: &Path) -> Self {
        let (kind, name) = match cgroups::service_of(cgroup) {
            Some(unit) => ("SystemdService", unit),
            None => ("Node", "node".to_owned()),
        };
        Self { namespace: None, kind: kind.to_owned(), name }
    }
}

impl WorkloadRef {
    /// Namespace and name; the name of what has no namespace.
    #[must_use]
    pub fn full_name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// What is known of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// `None` for processes of the node, and for pods whose cgroup is gone.
    pub pod: Option<PodRef>,
    /// `None` if the cgroup is gone, or the source does not have the pod.
    pub workload: Option<WorkloadRef>,
}

impl Client {
    /// Its name, and the kind of its workload; no kind if the name says it.
    #[must_use]
    pub fn label(&self) -> (String, &str) {
        match (&self.workload, &self.pod) {
            (Some(workload), _) if workload.kind == "Node" => (workload.name.clone(), ""),
            (Some(workload), _) => (workload.full_name(), &workload.kind),
            (None, Some(pod)) => (format!("pod uid {}", pod.uid), ""),
            (None, None) => ("unknown".to_owned(), ""),
        }
    }

    pub(super) fn of_pod(uid: &str, name: Option<(&ObjectName, &Workload)>) -> Self {
        Self {
            pod: Some(PodRef::new(name.map(|(name, _)| name), uid)),
            workload: name.map(|(name, workload)| WorkloadRef::of_pod(&name.namespace, workload)),
        }
    }

    pub(super) fn of_node(cgroup: &Path) -> Self {
        Self { pod: None, workload: Some(WorkloadRef::of_node(cgroup)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_the_node_are_named_for_their_service() {
        let of = |path: &str| WorkloadRef::of_node(Path::new(path)).to_string();
        assert_eq!(of("/system.slice/kubelet.service"), "SystemdService/kubelet.service");
        assert_eq!(of("/user.slice/user-0.slice/session-3.scope"), "Node/node");
        assert_eq!(of("/"), "Node/node");
    }

    #[test]
    fn a_pod_without_a_name_has_no_workload() {
        let name = ObjectName::new("shop", "web-1");
        let workload = Workload::new("Deployment", "web");
        let known = Client::of_pod("uid", Some((&name, &workload))).workload.unwrap();
        assert_eq!(
            (known.namespace.as_deref(), known.to_string()),
            (Some("shop"), "Deployment/web".into())
        );
        let unknown = Client::of_pod("uid", None);
        assert_eq!((unknown.pod.unwrap().uid.as_str(), unknown.workload), ("uid", None));
    }
}
