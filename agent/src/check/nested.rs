//! Clusters inside of pods: their services' addresses may be this cluster's, too.

use super::{CheckResult, Node};

/// `None` without an agent, which is who finds them.
pub fn check(node: &Node<'_>) -> Option<CheckResult> {
    let check = "namespaces.nested";
    let nested = &node.status.as_ref()?.nested_namespaces;
    let pods: Vec<String> = nested.iter().map(|nested| nested.pod.to_string()).collect();
    Some(if nested.is_empty() {
        CheckResult::ok(check, "none inside a pod connected to a service")
    } else if nested.iter().all(|nested| nested.excluded) {
        CheckResult::ok(check, format!("excluded inside of pods: {}", pods.join(", ")))
    } else {
        CheckResult::warning(
            check,
            format!(
                "services are dialled from network namespaces made inside of pods, and reach this \
                 cluster's endpoints: {}",
                pods.join(", ")
            ),
            "if a cluster runs in there, label the pod `sockline.dev/redirect: disabled`, or start the \
             agent with --exclude-nested-namespaces",
        )
    })
}
