//! Pods and namespaces: which pods are excluded.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{
    exclusion::{ExcludedPod, Policy, excluded_pods},
    object::{Namespace, ObjectName, Pod},
};

#[derive(Debug)]
pub(super) struct Pods {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pods: BTreeMap<ObjectName, Pod>,
    /// Something changed since [`Self::excluded_pods`] was last called.
    changed: bool,
}

impl Pods {
    pub(super) const fn new() -> Self {
        Self { namespaces: BTreeMap::new(), pods: BTreeMap::new(), changed: true }
    }

    pub(super) fn put(&mut self, pod: Pod) {
        self.changed |= self.pods.get(&pod.name) != Some(&pod);
        self.pods.insert(pod.name.clone(), pod);
    }

    pub(super) fn put_namespace(&mut self, namespace: Namespace) {
        self.changed |= self.namespaces.get(&namespace.name) != Some(&namespace);
        self.namespaces.insert(Arc::clone(&namespace.name), namespace);
    }

    pub(super) fn remove(&mut self, name: &ObjectName) {
        self.changed |= self.pods.remove(name).is_some();
    }

    pub(super) fn remove_namespace(&mut self, name: &str) {
        self.changed |= self.namespaces.remove(name).is_some();
    }

    /// The pod with this UID in the name of its cgroup.
    pub(super) fn of_uid(&self, uid: &str) -> Option<&Pod> {
        self.pods.values().find(|pod| &*pod.cgroup_uid == uid)
    }

    /// The name of the node that a pod is on; `None` without a pod of this name, and before it is scheduled.
    pub(super) fn node_of(&self, pod: &ObjectName) -> Option<&str> {
        self.pods.get(pod)?.node.as_deref()
    }

    /// The excluded pods of a node, by the UID in the name of their cgroup; `None` if nothing changed
    /// since the last call.
    pub(super) fn excluded_pods(
        &mut self,
        policy: &Policy,
        node: &str,
    ) -> Option<BTreeMap<Arc<str>, ExcludedPod>> {
        std::mem::take(&mut self.changed)
            .then(|| excluded_pods(self.pods.values(), &self.namespaces, policy, node))
    }
}
