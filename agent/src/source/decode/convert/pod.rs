//! Pod: whether it is excluded, how its cgroup is named, and what it is a part of.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::{Convert, annotations, redirect, workload};
use crate::source::decode::validate::Validator;
use crate::{
    model::object::{Object, Pod, PodPhase},
    source::Sourced,
};

/// On the mirror object of a static pod: the uid under which the kubelet runs it (`pkg/kubelet/types/pod_update.go`). The
/// object itself has a uid of the API server.
const CONFIG_HASH: &str = annotations::CONFIG_HASH.name;

pub(super) fn convert(pod: &api::Pod) -> Option<Sourced> {
    let mut validator = Validator::new(pod.reference());
    if !validator.names_are_valid() {
        return Some(validator.finish(None));
    }
    let metadata = &pod.metadata;
    let hash = metadata.annotations.as_ref().and_then(|annotations| annotations.get(CONFIG_HASH));
    let uid = hash.or(metadata.uid.as_ref()).filter(|uid| !uid.is_empty());
    let Some(uid) = uid else {
        validator.error("metadata.uid", "missing; the pod cannot be identified and is skipped");
        return Some(validator.finish(None));
    };
    let redirect = redirect::of_clients(&mut validator, metadata);
    let text = |text: &String| Arc::from(text.as_str());
    let labels = metadata.labels.iter().flatten();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let object = Pod {
        name: validator.reference().name.clone(),
        node: node.filter(|node| !node.is_empty()).map(text),
        cgroup_uid: text(uid),
        redirect,
        labels: labels.map(|(key, value)| (text(key), text(value))).collect(),
        phase: match phase {
            Some("Running") => PodPhase::Running,
            Some("Succeeded" | "Failed") => PodPhase::Ended,
            // Unknown is not set since Kubernetes 1.5; it would be a pod that may still run.
            _ => PodPhase::Pending,
        },
        workload: workload::of_pod(metadata),
    };
    Some(validator.finish(Some(Object::Pod(object))))
}
