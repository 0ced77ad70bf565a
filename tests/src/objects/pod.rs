//! A Pod object, which a test builds step by step.

use serde_json::{Map, Value, json};

/// A Pod object. What runs is a [`crate::Pod`] or the containers of a [`crate::PodCgroup`].
///
/// ```
/// use sockline_testbed::objects::Pod;
/// let meshed = Pod::new("shop/meshed").label("sockline.dev/redirect", "disabled").object();
/// assert_eq!(meshed["metadata"]["namespace"], "shop");
/// assert_eq!(meshed["spec"]["nodeName"], "node-a", "where agents of the testbed are");
/// ```
#[derive(Clone, Debug)]
pub struct Pod {
    namespace: String,
    name: String,
    uid: String,
    node: String,
    labels: Map<String, Value>,
    owners: Vec<Value>,
    phase: String,
}

impl Pod {
    /// A running Pod on `node-a`, of this namespace and name: `NAMESPACE/NAME`.
    ///
    /// # Panics
    /// Without a namespace.
    pub fn new(name: &str) -> Self {
        let (namespace, name) = name.split_once('/').expect("a Pod is named NAMESPACE/NAME");
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            node: "node-a".to_owned(),
            labels: Map::new(),
            owners: Vec::new(),
            phase: "Running".to_owned(),
        }
    }

    /// The UID, which the kubelet names the pod's cgroup by; otherwise `uid-NAME`.
    #[must_use]
    pub fn uid(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.uid);
        self
    }

    /// On another node.
    #[must_use]
    pub fn node(mut self, node: &str) -> Self {
        node.clone_into(&mut self.node);
        self
    }

    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.into());
        self
    }

    /// The controller that made it, such as a `ReplicaSet` of `apps/v1`.
    #[must_use]
    pub fn owner(mut self, api_version: &str, kind: &str, name: &str) -> Self {
        self.owners.push(json!({
            "apiVersion": api_version,
            "kind": kind,
            "name": name,
            "uid": format!("uid-{name}"),
            "controller": true,
        }));
        self
    }

    /// `Pending`, `Succeeded` or `Failed`.
    #[must_use]
    pub fn phase(mut self, phase: &str) -> Self {
        phase.clone_into(&mut self.phase);
        self
    }

    /// The object as the API server would give it. It has a container because the API's validation wants one.
    pub fn object(self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "labels": self.labels,
                "ownerReferences": self.owners,
            },
            "spec": {
                "nodeName": self.node,
                "containers": [{"name": "main", "image": "none"}],
            },
            "status": {"phase": self.phase},
        })
    }
}
