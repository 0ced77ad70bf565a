//! A private cgroup v2 per node, entered by threads.
//!
//! A socket belongs to the cgroup of the thread that created it, so one process can be many nodes: the
//! process moves into its own base cgroup, each node is a *threaded* child of it, and threads (never the
//! process) move into the children.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::Mutex,
};

use anyhow::{Context, Result};

use crate::{DEADLINE, mounts, owner, wait_ok};

/// One node's cgroup; removed when dropped, which needs its threads to have ended.
pub(crate) struct NodeCgroup {
    path: PathBuf,
}

impl NodeCgroup {
    pub(crate) fn create(node: u32) -> Result<Self> {
        let base = enter_base()?;
        let path = base.join(format!("node-{node}"));
        // From here on dropping `cgroup` releases the base.
        let cgroup = Self { path };
        fs::create_dir(&cgroup.path)
            .with_context(|| format!("creating cgroup {}", cgroup.path.display()))?;
        fs::write(cgroup.path.join("cgroup.type"), "threaded").with_context(|| {
            format!("making cgroup {} threaded (Linux 4.14)", cgroup.path.display())
        })?;
        Ok(cgroup)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Moves the calling thread into a node's cgroup; threads and processes it starts follow.
pub(crate) fn join_thread(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.threads"), "0")
        .with_context(|| format!("moving a thread into cgroup {}", cgroup.display()))
}

impl Drop for NodeCgroup {
    fn drop(&mut self) {
        let removed =
            remove_below(&self.path).and_then(|()| remove(&self.path, self.path.parent()));
        if let Err(error) = removed {
            eprintln!("testbed: {error:#}");
        }
        leave_base();
    }
}

/// The cgroup this process lives in while it has nodes.
struct Base {
    path: PathBuf,
    /// The cgroup that the process came from and returns to.
    home: PathBuf,
    nodes: usize,
}

/// A manual count, not an `Arc`: leaving and entering again must not overlap.
static BASE: Mutex<Option<Base>> = Mutex::new(None);

fn enter_base() -> Result<PathBuf> {
    let mut base = BASE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(base) = base.as_mut() {
        base.nodes += 1;
        return Ok(base.path.clone());
    }
    let mount = mounts::first_of_type("cgroup2")?
        .context("cgroup v2 is not mounted: `sudo mount -t cgroup2 none /sys/fs/cgroup/unified`")?;
    remove_stale(&mount);
    let home = home_of_process(&mount)?;
    let path = mount.join(owner::process_name());
    fs::create_dir(&path)
        .with_context(|| format!("creating cgroup {} (needs root)", path.display()))?;
    if let Err(error) = move_process(&path) {
        let _ = fs::remove_dir(&path);
        return Err(error);
    }
    *base = Some(Base { path: path.clone(), home, nodes: 1 });
    Ok(path)
}

fn leave_base() {
    let mut slot = BASE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(base) = slot.as_mut() else { return };
    base.nodes -= 1;
    if base.nodes > 0 {
        return;
    }
    let left = move_process(&base.home).and_then(|()| remove(&base.path, Some(&base.home)));
    if let Err(error) = left {
        eprintln!("testbed: {error:#}");
    }
    *slot = None;
}

fn home_of_process(mount: &Path) -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup")?;
    let path = table.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let home = mount.join(path);
    // In a cgroup namespace the path may lie outside of what is mounted.
    Ok(if home.exists() { home } else { mount.to_path_buf() })
}

fn move_process(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), process::id().to_string()).with_context(|| {
        format!("moving this process into cgroup {} (needs root)", cgroup.display())
    })
}

/// Removes a cgroup as soon as it is empty: `join` returns a moment before the kernel removes the thread from its
/// cgroup. Processes that are still in it (a child that another test is
/// starting, a shell in a pod of `demo --keep`) move to `refuge`.
pub(crate) fn remove(cgroup: &Path, refuge: Option<&Path>) -> Result<()> {
    let what = format!("cgroup {} to be empty and removed", cgroup.display());
    wait_ok(DEADLINE, &what, || match fs::remove_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            if let Some(refuge) = refuge {
                evict(cgroup, refuge);
            }
            Err(error)
        }
        Ok(()) => Ok(()),
    })
}

/// Removes the cgroups below a cgroup; their processes move to it.
pub(crate) fn remove_below(cgroup: &Path) -> Result<()> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_below(&entry.path())?;
        remove(&entry.path(), Some(cgroup))?;
    }
    Ok(())
}

/// Whole processes leave a base; single threads leave a node, whose `cgroup.procs` is not readable.
fn evict(cgroup: &Path, refuge: &Path) {
    for file in ["cgroup.procs", "cgroup.threads"] {
        if let Ok(ids) = fs::read_to_string(cgroup.join(file)) {
            for id in ids.lines() {
                // It may have ended since.
                let _ = fs::write(refuge.join(file), id);
            }
            return;
        }
    }
}

/// Removes cgroups of test processes that were killed before they could clean up, with the processes that
/// still run in them.
fn remove_stale(mount: &Path) {
    let Ok(entries) = fs::read_dir(mount) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(owner::is_stale) {
            continue;
        }
        let base = entry.path();
        let _ = fs::write(base.join("cgroup.kill"), "1");
        let nodes = fs::read_dir(&base).into_iter().flatten().flatten();
        for node in nodes.filter(|node| node.file_type().is_ok_and(|kind| kind.is_dir())) {
            let _ = remove_below(&node.path());
            let _ = remove(&node.path(), None);
        }
        if let Err(error) = remove(&base, None) {
            eprintln!("testbed: stale: {error:#}");
        }
    }
}
