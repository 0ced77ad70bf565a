//! Kubernetes and the binary know every field, argument and variable of the manifests.

use std::{collections::BTreeSet, fs, process::Command};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Namespace, ResourceQuota, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sockline_testbed::{kustomize::DIRECTIVE, sockline_binary};

use super::{deploy, document, documents, folders, objects, render};

/// The fields of an object that its type does not have.
fn unknown_fields(object: &Value) -> Vec<String> {
    fn read_back<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
        match serde_json::from_value::<T>(object.clone()) {
            Ok(typed) => serde_json::to_value(typed).unwrap(),
            Err(error) => panic!("{error}: {object:#}"),
        }
    }
    fn compare(given: &Value, known: &Value, path: &str, missing: &mut Vec<String>) {
        match (given, known) {
            // In a patch: remove this field.
            (Value::Null, _) => {}
            (Value::Object(fields), _) => {
                for (field, value) in fields.iter().filter(|(name, _)| *name != DIRECTIVE) {
                    compare(value, &known[field], &format!("{path}.{field}"), missing);
                }
            }
            (Value::Array(items), _) => {
                for (index, value) in items.iter().enumerate() {
                    compare(value, &known[index], &format!("{path}[{index}]"), missing);
                }
            }
            (given, known) if given != known => {
                missing.push(format!("{path}: {given}, not {known}"));
            }
            _ => {}
        }
    }
    let known = match object["kind"].as_str().unwrap() {
        "DaemonSet" => read_back::<DaemonSet>(object),
        "Namespace" => read_back::<Namespace>(object),
        "ResourceQuota" => read_back::<ResourceQuota>(object),
        "ServiceAccount" => read_back::<ServiceAccount>(object),
        "ClusterRole" => read_back::<ClusterRole>(object),
        "ClusterRoleBinding" => read_back::<ClusterRoleBinding>(object),
        // The operator's own kinds, for which there are no types here.
        "PodMonitor" | "PrometheusRule" => object.clone(),
        kind => panic!("no type for the kind {kind}"),
    };
    let mut missing = Vec::new();
    compare(object, &known, "", &mut missing);
    missing
}

#[test]
fn kubernetes_knows_every_field_of_the_manifests() {
    for (name, object) in objects() {
        let missing = unknown_fields(&object);
        assert!(missing.is_empty(), "{name}: {missing:#?}");
    }
}

#[test]
fn an_unknown_field_is_an_error() {
    let mut object = document("base/daemonset.yaml");
    object["spec"]["template"]["spec"]["hostNetwrok"] = json!(true);
    object["spec"]["template"]["spec"]["containers"][0]["env"][0]["valu"] = json!("x");
    let missing = unknown_fields(&object);
    assert_eq!(missing.len(), 2, "{missing:#?}");
}

#[test]
fn kubernetes_knows_every_field_of_the_rendered_manifests() {
    for overlay in folders("overlays") {
        for object in render(&overlay) {
            let missing = unknown_fields(&object);
            assert!(missing.is_empty(), "{overlay:?}: {missing:#?}");
        }
    }
}

#[test]
fn the_binary_knows_every_argument_and_variable() {
    let own = ["SOCKLINE_", "KUBERNETES_"];
    // Variables that the agent reads apart from its options, and those that other variables are built from.
    let mut known: BTreeSet<String> =
        ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "NODE_IP"].map(Into::into).into();
    let help = |command: &str| {
        let output = Command::new(sockline_binary().unwrap()).args([command, "--help"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    for line in help("agent").lines() {
        if let Some(variable) = line.trim().strip_prefix("[env: ") {
            known.insert(variable.split('=').next().unwrap().to_owned());
        }
    }
    let mut seen = BTreeSet::new();
    for (name, object) in objects() {
        let pod = &object["spec"]["template"]["spec"];
        for list in ["containers", "initContainers"] {
            for container in pod[list].as_array().into_iter().flatten() {
                for variable in container["env"].as_array().into_iter().flatten() {
                    let variable = variable["name"].as_str().unwrap();
                    assert!(known.contains(variable), "{name}: {variable} is none of {known:#?}");
                    seen.insert(variable.to_owned());
                }
                let Some(args) = container["args"].as_array() else { continue };
                let (command, rest) = args.split_first().unwrap();
                for argument in rest {
                    let options = help(command.as_str().unwrap());
                    let argument = argument.as_str().unwrap();
                    assert!(options.contains(argument), "{name}: {command} has no {argument}");
                }
            }
        }
    }
    let file = fs::read_to_string(deploy().join("components/without-kube-proxy/api-server.env"));
    for line in file.unwrap().lines().filter(|line| !line.starts_with('#')) {
        let variable = line.split('=').next().unwrap();
        assert!(known.contains(variable), "{variable}");
        seen.insert(variable.to_owned());
    }
    let ours = seen.iter().filter(|name| own.iter().any(|prefix| name.starts_with(prefix)));
    assert!(ours.count() >= 5, "{seen:#?}");
}

#[test]
fn every_mount_has_a_volume_and_the_pins_are_in_one() {
    let pod = &document("base/daemonset.yaml")["spec"]["template"]["spec"];
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let container = &pod["containers"][0];
    assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
    let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
    let variables = container["env"].as_array().unwrap();
    let bpffs = variables.iter().find(|variable| variable["name"] == "SOCKLINE_BPF_ROOT").unwrap();
    assert!(mounts.any(|mount| mount["mountPath"] == bpffs["value"]), "{bpffs} is no mount");
}

#[test]
fn account_role_and_namespace_have_matching_names() {
    let namespace = document("base/namespace.yaml")["metadata"]["name"].clone();
    let account = document("base/service-account.yaml")["metadata"]["name"].clone();
    let pod = &document("base/daemonset.yaml")["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], account);
    assert_eq!(document("base/kustomization.yaml")["namespace"], namespace);
    let [role, binding] = documents(&deploy().join("base/cluster-role.yaml")).try_into().unwrap();
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": namespace});
    assert_eq!(binding["subjects"], json!([subject]));
}
