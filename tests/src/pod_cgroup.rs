//! Cgroups of pods and their containers, at the paths of a kubelet with the systemd driver.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{Ns, Pod, cgroup};

/// The folders above a burstable pod's.
const PARENTS: [&str; 2] = ["kubepods.slice", "kubepods-burstable.slice"];

/// A pod's own cgroup, without containers at first. It is removed with its node at the latest.
pub struct PodCgroup {
    path: PathBuf,
}

impl PodCgroup {
    pub(crate) fn create(node: &Path, uid: &str) -> Result<Self> {
        let mut path = node.to_owned();
        for parent in PARENTS {
            path.push(parent);
            make(&path)?;
        }
        path.push(format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_")));
        make(&path)?;
        Ok(Self { path })
    }

    /// Starts a container of the pod: a cgroup of its own below this one, in the pod's network
    /// namespace.
    ///
    /// # Errors
    /// When the cgroup cannot be made or entered.
    pub fn container(&self, pod: &Pod, name: &str) -> Result<Ns> {
        let path = self.path.join(format!("cri-containerd-{name}.scope"));
        make(&path)?;
        Ns::within(name, pod, move || cgroup::join_thread(&path))
    }

    /// Removes the cgroup and those of its containers, which must have ended.
    ///
    /// # Errors When a process is still in it.
    pub fn remove(self) -> Result<()> {
        cgroup::remove_below(&self.path)?;
        cgroup::remove(&self.path, None)
    }
}

/// Threads can only be in threaded cgroups, and a cgroup below a threaded one must be one itself.
fn make(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        result => result,
    }
    .and_then(|()| fs::write(path.join("cgroup.type"), "threaded"))
    .with_context(|| format!("creating cgroup {}", path.display()))
}
