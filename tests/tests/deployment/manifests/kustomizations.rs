//! What users put on top of the base, the components and the overlays works.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sockline_testbed::kustomize::containers;

use super::{deploy, documents, files, folders, render};

#[test]
fn every_file_is_used_and_every_path_exists() {
    let mut reached = BTreeSet::new();
    for path in files().into_iter().filter(|path| path.ends_with("kustomization.yaml")) {
        let folder = path.parent().unwrap();
        let kustomization = documents(&path).remove(0);
        for list in ["resources", "components"] {
            for entry in kustomization[list].as_array().into_iter().flatten() {
                let target = folder.join(entry.as_str().unwrap());
                let target = target.canonicalize();
                let target = target.unwrap_or_else(|error| panic!("{entry} in {path:?}: {error}"));
                if target.is_dir() {
                    assert!(target.join("kustomization.yaml").is_file(), "{entry} in {path:?}");
                } else {
                    reached.insert(target);
                }
            }
        }
        reached.insert(path);
    }
    let all: BTreeSet<PathBuf> = files().into_iter().collect();
    assert_eq!(reached, all);
}

#[test]
fn every_component_has_an_overlay_of_its_name_or_is_part_of_one() {
    let used: BTreeSet<PathBuf> = files()
        .iter()
        .filter(|path| path.ends_with("kustomization.yaml"))
        .flat_map(|path| {
            let kustomization = documents(path).remove(0);
            let components = kustomization["components"].as_array().cloned().unwrap_or_default();
            let folder = path.parent().unwrap().to_owned();
            components
                .into_iter()
                .map(move |entry| folder.join(entry.as_str().unwrap()).canonicalize().unwrap())
        })
        .collect();
    for entry in fs::read_dir(deploy().join("components")).unwrap() {
        let component = entry.unwrap().path();
        assert!(used.contains(&component), "nothing uses {}", component.display());
    }
}

#[test]
fn the_image_is_the_one_that_xtask_builds() {
    for folder in folders("overlays") {
        assert_eq!(images(&folder), [IMAGE, env!("CARGO_PKG_VERSION")].join(":"), "{folder:?}");
    }
}

/// The name in the base.
const IMAGE: &str = "localhost/sockline";

/// The image of all containers that a kustomization leads to, which must be one.
fn images(folder: &Path) -> String {
    let objects = render(folder);
    let mut images: BTreeSet<&str> = objects
        .iter()
        .flat_map(containers)
        .map(|container| container["image"].as_str().unwrap())
        .collect();
    assert_eq!(images.len(), 1, "{}: {images:#?}", folder.display());
    images.pop_first().unwrap().to_owned()
}

/// A kustomization in a temporary folder.
fn kustomization(fields: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // JSON is YAML.
    fs::write(folder.path().join("kustomization.yaml"), fields.to_string()).unwrap();
    folder
}

#[test]
fn the_image_of_a_users_kustomization_reaches_every_container() {
    let base = deploy().join("base");
    let own =
        json!([{"name": IMAGE, "newName": "registry.example:5000/team/sockline", "newTag": "7"}]);
    let expected = "registry.example:5000/team/sockline:7";
    let with_image = kustomization(&json!({"resources": [base], "images": own}));
    for component in folders("components") {
        let beside =
            kustomization(&json!({"resources": [base], "components": [component], "images": own}));
        assert_eq!(images(beside.path()), expected, "{component:?} beside the image");
        let above =
            kustomization(&json!({"resources": [with_image.path()], "components": [component]}));
        assert_eq!(images(above.path()), expected, "{component:?} above the image");
    }
    for overlay in folders("overlays") {
        let above = kustomization(&json!({"resources": [overlay], "images": own}));
        assert_eq!(images(above.path()), expected, "{overlay:?} below the image");
        // Users who keep the version change only the registry.
        let mirror = json!([{"name": IMAGE, "newName": "registry.example/sockline"}]);
        let above = kustomization(&json!({"resources": [overlay], "images": mirror}));
        let expected = ["registry.example/sockline", env!("CARGO_PKG_VERSION")].join(":");
        assert_eq!(images(above.path()), expected, "{overlay:?} below another registry");
    }
}

/// Asserts that the uninstall pod of one kustomization has everything that the agent of another has.
fn assert_removes(removal: &Path, installed: &Path) {
    let (removal, installed) = (render(removal), render(installed));
    let agents: Vec<&Value> = installed.iter().flat_map(containers).collect();
    let [agent] = agents[..] else { panic!("{agents:#?}") };
    let all: Vec<&Value> = removal.iter().flat_map(containers).collect();
    let [cleanup, stays] = all[..] else { panic!("{all:#?}") };
    assert_eq!(cleanup["args"], json!(["cleanup"]));
    assert_eq!(stays["args"], json!(["cleanup", "--wait"]));
    for field in ["image", "imagePullPolicy", "env", "resources", "securityContext", "volumeMounts"]
    {
        assert!(!agent[field].is_null(), "{field}");
        assert_eq!(cleanup[field], agent[field], "{field}");
        assert_eq!(stays[field], agent[field], "{field}");
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(stays.get(probe), None);
    }
}

#[test]
fn the_uninstall_job_has_the_rights_and_folders_of_the_agent() {
    let (base, uninstall) = (deploy().join("base"), deploy().join("components/uninstall"));
    let cleanup_nodes = deploy().join("components/cleanup-nodes");
    let removals = [uninstall, cleanup_nodes];
    for component in folders("components").into_iter().filter(|one| !removals.contains(one)) {
        let installed = kustomization(&json!({"resources": [base], "components": [component]}));
        for removal in &removals {
            let removal =
                kustomization(&json!({"resources": [base], "components": [component, removal]}));
            assert_removes(removal.path(), installed.path());
        }
    }
}

/// The DaemonSet of a folder, its name, and the condition on a node's labels.
fn node_condition(folder: &Path) -> (String, Value) {
    let objects = render(folder);
    let set = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let pods = &set["spec"]["template"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], pods["metadata"]["labels"]);
    let terms = &pods["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"];
    assert_eq!(terms.as_array().map(Vec::len), Some(1), "{terms}");
    (set["metadata"]["name"].as_str().unwrap().to_owned(), terms[0]["matchExpressions"].clone())
}

#[test]
fn a_node_has_either_the_agent_or_the_cleanup_of_single_nodes() {
    let condition = |operator: &str| json!([{"key": "sockline.dev/agent", "operator": operator, "values": ["disabled"]}]);
    let agent = node_condition(&deploy().join("base"));
    assert_eq!(agent, ("sockline".to_owned(), condition("NotIn")));
    let cleanup = node_condition(&deploy().join("overlays/cleanup-nodes"));
    assert_eq!(cleanup, ("sockline-cleanup".to_owned(), condition("In")));
}

/// A patch of the agent's container, as in a user's kustomization.
fn patch_of_the_agent() -> Value {
    let container = json!({
        "name": "agent",
        "args": ["agent", "--fail-open-after=5m"],
        "env": [{"name": "SOCKLINE_BPF_ROOT", "value": "/other/bpf"}],
        "securityContext": {"privileged": true},
        "volumeMounts": [{"name": "bpf", "mountPath": "/other/bpf"}],
    });
    let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    json!([{"target": {"kind": "DaemonSet", "name": "sockline"}, "patch": patch.to_string()}])
}

#[test]
fn patches_of_the_installed_agent_apply_to_the_uninstall_overlay() {
    let base = deploy().join("base");
    let installed = kustomization(&json!({"resources": [base], "patches": patch_of_the_agent()}));
    let uninstall = deploy().join("components/uninstall");
    let removal =
        kustomization(&json!({"resources": [installed.path()], "components": [uninstall]}));
    assert_removes(removal.path(), installed.path());
}

/// Kustomize applies them after the component.
#[test]
fn a_patch_of_the_agent_beside_the_uninstall_component_fails_and_starts_no_agent() {
    let removal = kustomization(&json!({
        "resources": [deploy().join("base")],
        "components": [deploy().join("components/uninstall")],
        "patches": patch_of_the_agent(),
    }));
    let objects = render(removal.path());
    let all: Vec<&Value> = objects.iter().flat_map(containers).collect();
    let (complete, without_image): (Vec<&Value>, Vec<&Value>) =
        all.into_iter().partition(|container| container["image"].is_string());
    for container in complete {
        assert_eq!(container["args"][0], "cleanup", "{container:#}");
    }
    // The API server rejects such a container, and the whole pod with it.
    assert_eq!(without_image.len(), 1, "{without_image:#?}");
}
