//! Finds network namespaces that were created inside pods, such as those of a cluster in a container.
//!
//! A pod has the namespace that the container runtime created and mounted for it, or the node's. Any other namespace
//! that connects to services from the pod's cgroup was created inside the pod. This holds only for a pod whose own
//! namespace is visible: otherwise the other namespace may be the pod's own.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// A namespace that connected to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialler {
    /// `SO_NETNS_COOKIE`
    pub cookie: u64,
    /// The ancestors of its process's cgroup.
    pub cgroups: Vec<u64>,
}

/// Returns the nested namespaces, with the UIDs of their pods. `pods` are the cgroups of pods; `own` are the node's
/// namespaces and those that the container runtime has mounted.
#[must_use]
pub fn nested(
    diallers: &[Dialler],
    pods: &HashMap<u64, Arc<str>>,
    own: &HashSet<u64>,
) -> BTreeMap<u64, Arc<str>> {
    let pod_of = |dialler: &Dialler| dialler.cgroups.iter().find_map(|cgroup| pods.get(cgroup));
    let seen: HashSet<&Arc<str>> = diallers
        .iter()
        .filter(|dialler| own.contains(&dialler.cookie))
        .filter_map(pod_of)
        .collect();
    diallers
        .iter()
        .filter(|dialler| !own.contains(&dialler.cookie))
        .filter_map(|dialler| Some((dialler.cookie, pod_of(dialler)?)))
        .filter(|(_, pod)| seen.contains(pod))
        .map(|(cookie, pod)| (cookie, Arc::clone(pod)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: u64 = 100;
    const OTHER_POD: u64 = 200;

    fn found(diallers: &[(u64, &[u64])], own: &[u64]) -> Vec<u64> {
        let diallers: Vec<Dialler> = diallers
            .iter()
            .map(|(cookie, cgroups)| Dialler { cookie: *cookie, cgroups: cgroups.to_vec() })
            .collect();
        let pods = HashMap::from([(POD, "pod".into()), (OTHER_POD, "other".into())]);
        nested(&diallers, &pods, &own.iter().copied().collect()).into_keys().collect()
    }

    #[test]
    fn namespace_that_is_not_mounted_is_nested_if_the_pods_own_is_visible() {
        assert_eq!(found(&[(1, &[9, POD, 7]), (2, &[9, POD, 8])], &[1]), [2]);
    }

    #[test]
    fn pod_of_which_no_own_namespace_is_seen_keeps_all_of_them() {
        // A new pod; or a runtime that mounts its namespaces elsewhere.
        assert_eq!(found(&[(2, &[9, POD])], &[1]), [0; 0]);
        // The namespace of another pod does not count.
        assert_eq!(found(&[(1, &[9, OTHER_POD]), (2, &[9, POD])], &[1]), [0; 0]);
    }

    #[test]
    fn pods_own_and_the_hosts_processes_namespaces_are_not_nested() {
        let diallers: [(u64, &[u64]); 3] = [(1, &[9, POD]), (3, &[9, OTHER_POD]), (4, &[5])];
        assert_eq!(found(&diallers, &[1, 3]), [0; 0]);
    }
}
