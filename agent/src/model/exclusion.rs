//! Excluded pods of this node: Sockline bypasses their connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    object::{Namespace, ObjectName, Pod, PodPhase, Redirect},
    selector::Selector,
};

/// The exclusions of the agent's options. They override the labels and annotations of pods and namespaces.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    pub namespaces: BTreeSet<String>,
    pub pods: Option<Selector>,
}

/// A pod whose connections are bypassed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExcludedPod {
    pub pod: ObjectName,
    pub reason: Reason,
    /// Its processes are running, so it must have a cgroup.
    pub running: bool,
}

/// What excludes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The option `--exclude-namespaces`.
    NamespaceOption,
    /// The option `--exclude-pod-selector`.
    PodOption,
    /// The pod's own label or annotation.
    Pod,
    /// Its namespace's label or annotation.
    Namespace,
}

impl Reason {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NamespaceOption => "--exclude-namespaces",
            Self::PodOption => "--exclude-pod-selector",
            Self::Pod => "its own label or annotation",
            Self::Namespace => "its namespace's label or annotation",
        }
    }
}

/// The excluded pods of node `node`, by the UID in the name of their cgroup.
///
/// A pod's label or annotation overrides its namespace's, in both directions.
pub fn excluded_pods<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    namespaces: &BTreeMap<Arc<str>, Namespace>,
    policy: &Policy,
    node: &str,
) -> BTreeMap<Arc<str>, ExcludedPod> {
    pods.into_iter()
        .filter(|pod| pod.node.as_deref() == Some(node) && pod.phase != PodPhase::Ended)
        .filter_map(|pod| {
            let excluded = ExcludedPod {
                pod: pod.name.clone(),
                reason: reason(pod, namespaces, policy)?,
                running: pod.phase == PodPhase::Running,
            };
            Some((Arc::clone(&pod.cgroup_uid), excluded))
        })
        .collect()
}

fn reason(
    pod: &Pod,
    namespaces: &BTreeMap<Arc<str>, Namespace>,
    policy: &Policy,
) -> Option<Reason> {
    let namespace = &pod.name.namespace;
    if policy.namespaces.contains(&**namespace) {
        return Some(Reason::NamespaceOption);
    }
    if policy.pods.as_ref().is_some_and(|selector| selector.matches(&pod.labels)) {
        return Some(Reason::PodOption);
    }
    match pod.redirect {
        Some(Redirect::Disabled) => Some(Reason::Pod),
        Some(Redirect::Enabled) => None,
        None => {
            let redirect = namespaces.get(namespace).map(|namespace| namespace.redirect);
            (redirect == Some(Redirect::Disabled)).then_some(Reason::Namespace)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing;

    fn pod(redirect: Option<Redirect>, phase: PodPhase) -> Pod {
        let labels = BTreeMap::from([("app".into(), "web".into())]);
        Pod { redirect, phase, labels, ..testing::pod("p", "here") }
    }

    fn running(redirect: Option<Redirect>) -> Pod {
        pod(redirect, PodPhase::Running)
    }

    fn namespaces(redirect: Redirect) -> BTreeMap<Arc<str>, Namespace> {
        let name: Arc<str> = "ns".into();
        BTreeMap::from([(Arc::clone(&name), Namespace { name, redirect })])
    }

    fn why(pod: &Pod, namespace: Redirect, policy: &Policy) -> Option<Reason> {
        let found = excluded_pods([pod], &namespaces(namespace), policy, "here");
        found.get("uid-p").map(|found| found.reason)
    }

    use Redirect::{Disabled, Enabled};

    #[test]
    fn a_pod_counts_for_more_than_its_namespace() {
        for (own, namespace, expected) in [
            (None, Enabled, None),
            (None, Disabled, Some(Reason::Namespace)),
            (Some(Enabled), Disabled, None),
            (Some(Disabled), Enabled, Some(Reason::Pod)),
            (Some(Disabled), Disabled, Some(Reason::Pod)),
        ] {
            let found = why(&running(own), namespace, &Policy::default());
            assert_eq!(found, expected, "{own:?} in {namespace:?}");
        }
    }

    #[test]
    fn the_options_count_for_more_than_the_pod() {
        let of_namespace =
            Policy { namespaces: BTreeSet::from(["ns".to_owned()]), ..Policy::default() };
        let of_pods = Policy { pods: Some("app=web".parse().unwrap()), ..Policy::default() };
        let pod = running(Some(Enabled));
        assert_eq!(why(&pod, Enabled, &of_namespace), Some(Reason::NamespaceOption));
        assert_eq!(why(&pod, Enabled, &of_pods), Some(Reason::PodOption));
        let others = Policy {
            namespaces: BTreeSet::from(["other".to_owned()]),
            pods: Some("app=db".parse().unwrap()),
        };
        assert_eq!(why(&pod, Enabled, &others), None);
    }

    #[test]
    fn a_namespace_that_is_not_known_says_nothing() {
        let pod = running(None);
        assert!(excluded_pods([&pod], &BTreeMap::new(), &Policy::default(), "here").is_empty());
    }

    #[test]
    fn only_living_pods_of_this_node_count() {
        let disabled = Some(Disabled);
        let of = |pod: &Pod, node| {
            excluded_pods([pod], &BTreeMap::new(), &Policy::default(), node)
                .get("uid-p")
                .map(|found| found.running)
        };
        assert_eq!(of(&running(disabled), "here"), Some(true));
        assert_eq!(of(&running(disabled), "there"), None);
        assert_eq!(of(&pod(disabled, PodPhase::Pending), "here"), Some(false));
        assert_eq!(of(&pod(disabled, PodPhase::Ended), "here"), None);
        let unscheduled = Pod { node: None, ..running(disabled) };
        assert_eq!(of(&unscheduled, "here"), None);
    }
}
