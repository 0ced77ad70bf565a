//! The part of kustomize that deploy/ uses, for machines without it: the containers of a kustomization, with
//! their fields.
//!
//! The order is kustomize's own (`accumulateTarget` in its api/internal/target/kusttarget.go): resources,
//! components, then of one kustomization patches before images before replacements. Namespaces, common labels
//! and generated ConfigMaps are ignored: no test needs them.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// The fields that are implemented; any other would be missing from the result.
const KNOWN: [&str; 10] = [
    "apiVersion",
    "kind",
    "namespace",
    "labels",
    "configMapGenerator",
    "resources",
    "components",
    "patches",
    "images",
    "replacements",
];

/// Lists of a pod whose items are merged, by the field that names an item; others are replaced whole.
const MERGED: [(&str, &str); 6] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
];

/// The directive of a patch for an item, which is no field of it.
pub const DIRECTIVE: &str = "$patch";

const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

/// The documents of a YAML file.
///
/// # Errors
/// When it cannot be read; the message names the file.
pub fn documents(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_saphyr::from_multiple(&text).with_context(|| format!("reading {}", path.display()))
}

/// All objects that a kustomization describes.
///
/// # Errors When a file cannot be read or does not exist, or uses a field that is not implemented.
pub fn render(folder: &Path) -> Result<Vec<Value>> {
    add(folder, Vec::new())
}

/// Containers and init containers of an object with a pod template.
pub fn containers(object: &Value) -> impl Iterator<Item = &Value> {
    let pod = &object["spec"]["template"]["spec"];
    CONTAINERS.into_iter().flat_map(|name| list(pod, name))
}

fn add(folder: &Path, mut objects: Vec<Value>) -> Result<Vec<Value>> {
    let file = folder.join("kustomization.yaml");
    let kustomization = documents(&file)?.pop().unwrap_or_default();
    change(folder, &kustomization, &mut objects).with_context(|| file.display().to_string())?;
    Ok(objects)
}

fn change(folder: &Path, kustomization: &Value, objects: &mut Vec<Value>) -> Result<()> {
    let fields = kustomization.as_object().context("no fields")?;
    let unknown: Vec<_> = fields.keys().filter(|name| !KNOWN.contains(&name.as_str())).collect();
    ensure!(unknown.is_empty(), "{unknown:?} are not known here");
    for entry in list(kustomization, "resources") {
        let path = folder.join(text(entry)?);
        objects.extend(if path.is_dir() { render(&path)? } else { documents(&path)? });
    }
    for entry in list(kustomization, "components") {
        *objects = add(&folder.join(text(entry)?), std::mem::take(objects))?;
    }
    for patch in list(kustomization, "patches") {
        let change: Value = serde_saphyr::from_str(text(&patch["patch"])?)?;
        merge(selected(objects, &patch["target"])?, &change);
    }
    for entry in list(kustomization, "images") {
        ensure!(entry["digest"].is_null(), "digests are not known here");
        for container in objects.iter_mut().flat_map(containers_mut) {
            replace_image(container, entry)?;
        }
    }
    for replacement in list(kustomization, "replacements") {
        let source = &replacement["source"];
        let path = text(&source["fieldPath"])?;
        let value = field(selected(objects, source)?, path)?.clone();
        ensure!(!value.is_null(), "{path} is not there to be copied");
        for target in list(replacement, "targets") {
            for path in list(target, "fieldPaths") {
                let place = field(selected(objects, &target["select"])?, text(path)?)?;
                let may_be_made = target["options"]["create"] == true;
                ensure!(may_be_made || !place.is_null(), "{path} is not there to be replaced");
                *place = value.clone();
            }
        }
    }
    Ok(())
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

/// The one object of a kind and name.
fn selected<'a>(objects: &'a mut [Value], target: &Value) -> Result<&'a mut Value> {
    let found = objects.iter_mut().find(|object| {
        object["kind"] == target["kind"] && object["metadata"]["name"] == target["name"]
    });
    found.with_context(|| format!("there is no {target}"))
}

/// The place of a path like `spec.containers.[name=agent].image`; `null` if there was nothing.
fn field<'a>(object: &'a mut Value, path: &str) -> Result<&'a mut Value> {
    let mut place = object;
    for part in path.split('.') {
        let Some(condition) = part.strip_prefix('[') else {
            place = &mut place[part];
            continue;
        };
        let Some((name, wanted)) = condition.trim_end_matches(']').split_once('=') else {
            bail!("{part} of {path} is not known here");
        };
        let mut items = place.as_array_mut().into_iter().flatten();
        let found = items.find(|item| item[name] == wanted);
        place = found.with_context(|| format!("{part} of {path} is not there"))?;
    }
    Ok(place)
}

/// A strategic merge patch.
fn merge(into: &mut Value, change: &Value) {
    let Some(change) = change.as_object() else {
        *into = change.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (name, value) in change {
        let key = MERGED.iter().find(|(list, _)| list == name).map(|(_, key)| *key);
        match (key, value) {
            (_, Value::Null) => {
                into.as_object_mut().map(|fields| fields.remove(name));
            }
            (Some(key), Value::Array(items)) => merge_items(&mut into[name], items, key),
            _ => merge(&mut into[name], value),
        }
    }
}

fn merge_items(into: &mut Value, items: &[Value], key: &str) {
    let mut all = into.as_array().cloned().unwrap_or_default();
    for item in items {
        let there = all.iter().position(|one| one[key] == item[key]);
        if item[DIRECTIVE] == "delete" {
            there.map(|place| all.remove(place));
            continue;
        }
        let place = there.unwrap_or_else(|| {
            all.push(Value::Null);
            all.len() - 1
        });
        merge(&mut all[place], item);
    }
    *into = all.into();
}

fn containers_mut(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    let pod = object.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut);
    let lists = pod.into_iter().flat_map(Map::iter_mut);
    lists
        .filter(|(name, _)| CONTAINERS.contains(&name.as_str()))
        .filter_map(|(_, list)| list.as_array_mut())
        .flatten()
}

/// An entry names an image without its tag; parts that it does not set stay the same.
fn replace_image(container: &mut Value, entry: &Value) -> Result<()> {
    let image = text(&container["image"])?;
    // A colon before the last slash is a registry's port.
    let name_at = image.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match image[name_at..].find(':') {
        Some(colon) => (&image[..name_at + colon], Some(&image[name_at + colon + 1..])),
        None => (image, None),
    };
    if entry["name"] == name {
        let name = entry["newName"].as_str().unwrap_or(name);
        let tag = entry["newTag"].as_str().or(tag);
        container["image"] =
            json!(tag.map_or_else(|| name.to_owned(), |tag| format!("{name}:{tag}")));
    }
    Ok(())
}
