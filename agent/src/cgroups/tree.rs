//! Reads the hierarchy.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use sockline_ebpf::exclusion::{ANY_LEVEL, MAX_LEVEL};

use super::name;

/// The id of the hierarchy's root, the same on every machine; a cgroup's id is its inode number
/// (`kernfs`). What is mounted in a cgroup namespace may be another cgroup.
pub const ROOT: u64 = 1;

/// A pod's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCgroup {
    /// The pod's UID, as in the folder's name.
    pub uid: String,
    pub id: u64,
    /// Its level below the hierarchy's root as a bit, or all bits if the level is unknown.
    pub level: u32,
}

/// The pods below a cgroup.
#[derive(Debug, Default)]
pub struct Tree {
    pub pods: Vec<PodCgroup>,
    /// The folders in which pods can be created, with the ids of their cgroups.
    pub parents: BTreeMap<PathBuf, u64>,
}

impl Tree {
    /// Reads the folders below `top`. A folder that is removed meanwhile is no error.
    ///
    /// # Errors
    /// When `top` itself cannot be read.
    pub fn read(top: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.descend(top, fs::metadata(top)?.ino(), level_of(top)?)?;
        Ok(tree)
    }

    /// `level` is the level of `folder`; `None` if the hierarchy's root is not visible.
    fn descend(&mut self, folder: &Path, id: u64, level: Option<u32>) -> io::Result<()> {
        self.parents.insert(folder.to_owned(), id);
        let level = level.map(|level| level + 1);
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str() else { continue };
            if let Some(uid) = name::pod_uid(file_name) {
                self.pods.push(PodCgroup { uid, id: entry.ino(), level: bit(level) });
            } else if level.is_none_or(|level| level < MAX_LEVEL) && name::may_hold_pods(file_name)
            {
                match self.descend(&entry.path(), entry.ino(), level) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// The paths of the cgroups below `top` with these ids, as far as they exist.
pub fn paths_of(top: &Path, ids: impl IntoIterator<Item = u64>) -> BTreeMap<u64, PathBuf> {
    let mut wanted: BTreeSet<u64> = ids.into_iter().collect();
    let mut found = BTreeMap::new();
    let mut folders = vec![top.to_owned()];
    if let Some(id) = fs::metadata(top).ok().map(|top| top.ino()).filter(|id| wanted.remove(id)) {
        found.insert(id, PathBuf::from("/"));
    }
    while let Some(folder) = folders.pop() {
        if wanted.is_empty() {
            break;
        }
        // A folder that is removed meanwhile is skipped.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if wanted.remove(&entry.ino()) {
                let below = path.strip_prefix(top).unwrap_or(&path);
                found.insert(entry.ino(), Path::new("/").join(below));
            }
            folders.push(path);
        }
    }
    found
}

fn bit(level: Option<u32>) -> u32 {
    match level {
        Some(level) if level <= MAX_LEVEL => 1 << level,
        _ => ANY_LEVEL,
    }
}

/// The level of a cgroup below the hierarchy's root. `None` if only a part of the hierarchy is mounted, as in a
/// container that is a node itself.
fn level_of(cgroup: &Path) -> io::Result<Option<u32>> {
    let mut folder = cgroup.canonicalize()?;
    let file_system = fs::metadata(&folder)?.dev();
    for level in 0.. {
        let metadata = fs::metadata(&folder)?;
        if metadata.dev() != file_system {
            break;
        }
        if metadata.ino() == ROOT {
            return Ok(Some(level));
        }
        if !folder.pop() {
            break;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";

    /// An ordinary file system does: only names and inode numbers matter.
    fn pods_in(folders: &[&str]) -> (tempfile::TempDir, Tree) {
        let top = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir_all(top.path().join(folder)).unwrap();
        }
        let tree = Tree::read(top.path()).unwrap();
        (top, tree)
    }

    #[test]
    fn pods_are_found_where_either_driver_puts_them() {
        let escaped = UID.replace('-', "_");
        for folder in [
            format!("kubepods/burstable/pod{UID}"),
            format!("kubepods/pod{UID}"),
            format!(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice"
            ),
            format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{escaped}.slice"),
        ] {
            let (top, tree) = pods_in(&[&folder, "system.slice/ssh.service"]);
            let id = fs::metadata(top.path().join(&folder)).unwrap().ino();
            let expected = PodCgroup { uid: UID.to_owned(), id, level: ANY_LEVEL };
            assert_eq!(tree.pods, [expected], "{folder}");
        }
    }

    #[test]
    fn what_is_within_a_pod_or_another_unit_is_not_looked_at() {
        let inside = format!("kubepods/pod{UID}/container/pod{UID}");
        let (top, tree) = pods_in(&[&inside, "system.slice/a.service", "b.service/c"]);
        assert_eq!(tree.pods.len(), 1);
        let parents = [top.path().to_owned(), top.path().join("kubepods")];
        assert!(tree.parents.keys().eq(&parents), "{:?}", tree.parents);
    }

    #[test]
    fn a_cgroup_is_found_by_its_id() {
        let top = tempfile::tempdir().unwrap();
        let container = top.path().join("kubepods/pod1/container");
        fs::create_dir_all(&container).unwrap();
        let id = |path: &Path| fs::metadata(path).unwrap().ino();
        let (inner, outer) = (id(&container), id(top.path()));
        let found = paths_of(top.path(), [inner, outer, u64::MAX]);
        let expected = [(inner, "/kubepods/pod1/container"), (outer, "/")];
        assert_eq!(found, expected.map(|(id, path)| (id, PathBuf::from(path))).into());
    }

    #[test]
    fn a_top_that_is_missing_is_an_error() {
        assert!(Tree::read(Path::new("/does/not/exist")).is_err());
    }
}
