//! The manifests in deploy/ match the binary, the API's types, and each other.

mod fields;
mod kustomizations;
mod rights;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sockline_testbed::kustomize;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().unwrap()
}

fn document(path: &str) -> Value {
    let mut all = documents(&deploy().join(path));
    assert_eq!(all.len(), 1, "{path}");
    all.remove(0)
}

fn documents(path: &Path) -> Vec<Value> {
    kustomize::documents(path).unwrap_or_else(|error| panic!("{error:#}"))
}

fn render(folder: &Path) -> Vec<Value> {
    kustomize::render(folder).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Every YAML file below deploy/.
fn files() -> Vec<PathBuf> {
    fn descend(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                descend(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "yaml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    descend(&deploy(), &mut found);
    assert!(found.len() > 10, "{found:#?}");
    found
}

/// Every object below deploy/: those in separate files, and the patches in kustomizations.
fn objects() -> Vec<(String, Value)> {
    let mut objects = Vec::new();
    for path in files() {
        let name = path.strip_prefix(deploy()).unwrap().display().to_string();
        for document in documents(&path) {
            if !document["apiVersion"].as_str().unwrap().starts_with("kustomize.config.k8s.io/") {
                objects.push((name.clone(), document));
                continue;
            }
            for patch in document["patches"].as_array().into_iter().flatten() {
                let patch = serde_saphyr::from_str(patch["patch"].as_str().unwrap()).unwrap();
                objects.push((format!("a patch in {name}"), patch));
            }
        }
    }
    objects
}

/// The folders of `overlays` or `components`.
fn folders(of: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(deploy().join(of)).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 3, "{folders:?}");
    folders
}
