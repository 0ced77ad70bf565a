//! The workload of a Pod, from the Pod's own metadata: the agent does not read ReplicaSets and Jobs.
//!
//! The rules for Deployments, Rollouts and CronJobs are Istio's (`GetDeployMetaFromPod` in `pkg/kube/util.go`). Istio also
//! names DeploymentConfigs of OpenShift, and a pod without `generateName` for itself. An owner is not checked against the
//! cluster: the API server does not either.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::annotations;
use crate::{model::object::Workload, source::decode::validate::is_name};

/// Maximum length of a kind (a DNS label).
const MAX_KIND: usize = 63;

/// The owner that controls the Pod, or the Pod itself.
pub(super) fn of_pod(metadata: &ObjectMeta) -> Workload {
    let owners = metadata.owner_references.iter().flatten();
    let controller = owners
        .filter(|owner| owner.controller == Some(true))
        .find(|owner| is_kind(&owner.kind) && is_name(&owner.name));
    match controller {
        // A Node owns the mirrors of its static pods (`pkg/kubelet/pod/mirror_client.go`).
        Some(owner) if owner.kind != "Node" => of_owner(metadata, owner),
        _ => Workload::new("Pod", metadata.name.as_deref().unwrap_or("")),
    }
}

fn of_owner(metadata: &ObjectMeta, owner: &OwnerReference) -> Workload {
    let name = &*owner.name;
    let label = |key: &str| metadata.labels.as_ref()?.get(key);
    let without = |key: &str| {
        let start = name.strip_suffix(&**label(key).filter(|hash| !hash.is_empty())?)?;
        start.strip_suffix('-').filter(|start| !start.is_empty())
    };
    match &*owner.kind {
        "ReplicaSet" => {
            if let Some(deployment) = without(annotations::POD_TEMPLATE_HASH.name) {
                return Workload::new("Deployment", deployment);
            }
            if let Some(rollout) = without(annotations::ROLLOUTS_POD_TEMPLATE_HASH.name) {
                return Workload::new("Rollout", rollout);
            }
        }
        "Job" => {
            if let Some(cron_job) = cron_job(name) {
                return Workload::new("CronJob", cron_job);
            }
        }
        _ => {}
    }
    Workload::new(&*owner.kind, name)
}

/// The CronJob of a Job: its controller names Jobs `NAME-MINUTES`, the Unix time in minutes (`getJobName` in
/// `pkg/controller/cronjob/cronjob_controllerv2.go`; before 1.21 in seconds).
fn cron_job(job: &str) -> Option<&str> {
    let (name, time) = job.rsplit_once('-')?;
    let is_time = (8..=10).contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}

fn is_kind(kind: &str) -> bool {
    (1..=MAX_KIND).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workload(owners: &serde_json::Value, labels: &serde_json::Value) -> String {
        let metadata = json!({"name": "web-7d4b9c-x2x7k", "namespace": "shop", "labels": labels,
            "ownerReferences": owners});
        of_pod(&serde_json::from_value(metadata).unwrap()).to_string()
    }

    fn controlled(kind: &str, name: &str, labels: &serde_json::Value) -> String {
        let owner =
            json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "1", "controller": true});
        workload(&json!([owner]), labels)
    }

    #[test]
    fn a_replica_set_is_named_for_its_deployment_or_rollout() {
        let of = |labels| controlled("ReplicaSet", "web-7d4b9c", &labels);
        assert_eq!(of(json!({"pod-template-hash": "7d4b9c"})), "Deployment/web");
        assert_eq!(of(json!({"rollouts-pod-template-hash": "7d4b9c"})), "Rollout/web");
        for other in [
            json!({}),
            json!({"pod-template-hash": "other"}),
            json!({"pod-template-hash": ""}),
            json!({"pod-template-hash": "b9c"}),
            json!({"pod-template-hash": "web-7d4b9c"}),
        ] {
            assert_eq!(of(other.clone()), "ReplicaSet/web-7d4b9c", "{other}");
        }
    }

    #[test]
    fn a_job_with_a_time_is_named_for_its_cron_job() {
        let of = |name| controlled("Job", name, &json!({}));
        assert_eq!(of("backup-29412345"), "CronJob/backup");
        assert_eq!(of("night-ly-1764513600"), "CronJob/night-ly");
        for other in
            ["backup", "backup-1234567", "backup-12345678901", "backup-2941234x", "-29412345"]
        {
            assert_eq!(of(other), format!("Job/{other}"));
        }
    }

    #[test]
    fn any_other_owner_has_its_kind_and_name() {
        for kind in ["StatefulSet", "DaemonSet", "SparkApplication"] {
            assert_eq!(controlled(kind, "db-29412345", &json!({})), format!("{kind}/db-29412345"));
        }
    }

    #[test]
    fn a_pod_that_nothing_controls_is_its_own_workload() {
        let own = "Pod/web-7d4b9c-x2x7k";
        assert_eq!(workload(&json!(null), &json!(null)), own);
        let owner = json!({"apiVersion": "v1", "kind": "Backup", "name": "b", "uid": "1"});
        assert_eq!(workload(&json!([owner]), &json!(null)), own);
        // The mirror of a static pod.
        assert_eq!(controlled("Node", "node-a", &json!(null)), own);
    }

    #[test]
    fn an_owner_that_is_no_name_is_not_shown() {
        for (kind, name) in
            [("Job", "a\nb"), ("Job", ""), ("J b", "a"), ("", "a"), (&*"K".repeat(64), "a")]
        {
            assert_eq!(controlled(kind, name, &json!({})), "Pod/web-7d4b9c-x2x7k", "{kind} {name}");
        }
    }
}
