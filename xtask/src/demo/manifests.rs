//! The agent's manifests: copies of the recorded ones, which scenes edit.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const SLICES: &str = "endpointslices.yaml";
const PODS: &str = "pods.yaml";
const FILES: [&str; 3] = ["nodes.yaml", "services.yaml", SLICES];

/// The folder the agent reads.
pub(crate) struct Manifests {
    dir: PathBuf,
    /// New contents are written here and then renamed, so that the agent never reads an incomplete file. Not in the
    /// agent's folder.
    draft: PathBuf,
}

impl Manifests {
    pub(super) fn copy(from: &Path, dir: PathBuf, draft: PathBuf) -> Result<Self> {
        for name in FILES {
            let source = from.join(name);
            fs::copy(&source, dir.join(name))
                .with_context(|| format!("copying {}", source.display()))?;
        }
        Ok(Self { dir, draft })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn services(&self) -> Result<Vec<Value>> {
        self.read("services.yaml")
    }

    pub(super) fn slices(&self) -> Result<Vec<Value>> {
        self.read(SLICES)
    }

    /// Removes the endpoints with an address (all if `None`) from a service's slices. Returns the former slices, for
    /// [`Manifests::put_back`].
    pub(crate) fn remove_endpoints(
        &self,
        service: &str,
        address: Option<&str>,
    ) -> Result<Vec<Value>> {
        let before = self.slices()?;
        let mut after = before.clone();
        let mut removed = 0;
        for slice in after.iter_mut().filter(|slice| service_of(slice) == Some(service)) {
            let Some(endpoints) = slice["endpoints"].as_array_mut() else { continue };
            let count = endpoints.len();
            endpoints.retain(|endpoint| {
                address.is_some_and(|address| {
                    !endpoint["addresses"]
                        .as_array()
                        .is_some_and(|all| all.contains(&json!(address)))
                })
            });
            removed += count - endpoints.len();
        }
        if removed == 0 {
            bail!("{SLICES}: {service} has no such endpoint");
        }
        self.put_back(&after)?;
        Ok(before)
    }

    /// Writes all slices in one step.
    pub(crate) fn put_back(&self, slices: &[Value]) -> Result<()> {
        self.write(SLICES, slices)
    }

    /// Writes the pods.
    pub(super) fn set_pods(&self, pods: &[Value]) -> Result<()> {
        self.write(PODS, pods)
    }

    fn write(&self, name: &str, objects: &[Value]) -> Result<()> {
        fs::write(&self.draft, to_yaml(objects)?).context("writing the edited manifest")?;
        fs::rename(&self.draft, self.dir.join(name)).context("moving the manifest into place")
    }

    fn read(&self, name: &str) -> Result<Vec<Value>> {
        let path = self.dir.join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        from_yaml(&text).with_context(|| format!("reading {}", path.display()))
    }
}

/// The service of a slice.
pub(super) fn service_of(slice: &Value) -> Option<&str> {
    slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str()
}

fn from_yaml(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

fn to_yaml(documents: &[Value]) -> Result<String> {
    let mut text = String::new();
    for document in documents {
        text += "---\n";
        text += &serde_saphyr::to_string(document)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::cluster;

    fn copied() -> (tempfile::TempDir, Manifests) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("manifests");
        fs::create_dir(&dir).unwrap();
        let manifests =
            Manifests::copy(&cluster::fixtures(), dir, temp.path().join("draft")).unwrap();
        (temp, manifests)
    }

    #[test]
    fn writing_slices_keeps_every_value() {
        let (_temp, manifests) = copied();
        let before = manifests.slices().unwrap();
        assert_eq!(before.len(), 13);
        manifests.put_back(&before).unwrap();
        assert_eq!(manifests.slices().unwrap(), before);
    }

    #[test]
    fn removing_an_endpoint_leaves_the_others() {
        let (_temp, manifests) = copied();
        let before = manifests.remove_endpoints("frontend", Some("10.244.1.10")).unwrap();
        let after = manifests.slices().unwrap();
        let count = |slices: &[Value], service: &str| {
            let of_service = slices.iter().filter(|slice| service_of(slice) == Some(service));
            of_service.map(|slice| slice["endpoints"].as_array().unwrap().len()).sum::<usize>()
        };
        assert_eq!((count(&before, "frontend"), count(&after, "frontend")), (3, 2));
        assert_eq!(count(&after, "frontend-external"), 3);
    }
}
