//! Finds cgroup v2.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::sys::statfs::CGROUP2_SUPER_MAGIC;

use super::{
    file_system::{MountError, kind_of, mount_new},
    table::{self, Mount},
};

/// The type in the mount table.
const KIND: &str = "cgroup2";
/// Where to mount cgroup v2 if it is not mounted.
const OWN_MOUNT: &str = "/run/sockline/cgroup2";

/// The cgroup that programs are attached to: the given one, otherwise the root of cgroup v2 from the mount
/// table. Mounts cgroup v2 if it is not mounted. On hybrid hierarchies it is `/sys/fs/cgroup/unified`; in a
/// container it can be anywhere, beside the container's own.
///
/// # Errors
/// When the given path is not in cgroup v2, or none can be found or mounted.
pub fn cgroup(given: Option<&Path>) -> Result<PathBuf, MountError> {
    if let Some(path) = given {
        return match kind_of(path) {
            Ok(CGROUP2_SUPER_MAGIC) => Ok(path.to_owned()),
            Ok(_) => Err(MountError::Unsupported(format!(
                "--cgroup-root {}: not in a cgroup v2 file system (`mount | grep cgroup2` shows where \
                 one is)",
                path.display()
            ))),
            Err(error) => {
                Err(MountError::io(format!("use --cgroup-root {}", path.display()), error))
            }
        };
    }
    if let Some(found) = highest(mounts()?) {
        return if is_own_cgroup(&found) {
            Err(only_own_cgroup(&found.path))
        } else {
            Ok(found.path)
        };
    }
    mount_new(KIND, Path::new(OWN_MOUNT)).map_err(|error| {
        MountError::Unsupported(format!(
            "no cgroup v2 file system is mounted, and mounting one on {OWN_MOUNT} failed: {error}; \
             sockline needs cgroup v2 (kernel option CONFIG_CGROUP_BPF) and CAP_SYS_ADMIN"
        ))
    })?;
    Ok(OWN_MOUNT.into())
}

/// The mounts of cgroup v2.
fn mounts() -> Result<Vec<Mount>, MountError> {
    let all = table::read()
        .map_err(|error| MountError::io(format!("read the mount table {}", table::PATH), error))?;
    Ok(all.into_iter().filter(|mount| mount.kind == KIND).collect())
}

/// How far below this process's cgroup namespace a mount begins. A container's own mount of cgroup v2
/// begins at the container's cgroup, which the namespace calls `/`. The host's mount, mounted into the
/// container, begins at `/../../..`, with one level for each level that the container is below it
/// (`cgroup_show_path` in `kernel/cgroup/cgroup.c`, cgroup_namespaces(7)).
fn depth(mount: &Mount) -> isize {
    let names = mount.root.split('/').filter(|name| !name.is_empty());
    names.map(|name| if name == ".." { -1 } else { 1 }).sum()
}

/// The mount that shows most of the hierarchy.
fn highest(mounts: Vec<Mount>) -> Option<Mount> {
    let usable = |path: &PathBuf| kind_of(path).is_ok_and(|kind| kind == CGROUP2_SUPER_MAGIC);
    mounts.into_iter().filter(|mount| usable(&mount.path)).min_by_key(depth)
}

/// As [`cgroup`], for commands that only read: mounts nothing. `None` if cgroup v2 is not mounted.
pub fn cgroup_for_reading(given: Option<&Path>) -> Result<Option<PathBuf>, MountError> {
    match given {
        Some(_) => cgroup(given).map(Some),
        None => Ok(highest(mounts()?).map(|mount| mount.path)),
    }
}

/// Whether a mount shows only the container's own cgroup. Programs attached there would not run for other
/// processes.
fn is_own_cgroup(mount: &Mount) -> bool {
    // Every cgroup except the real root has this file (`Documentation/admin-guide/cgroup-v2.rst`).
    let is_real_root = !mount.path.join("cgroup.type").exists();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    !is_real_root && mount.root == "/" && own.lines().any(|line| line == "0::/")
}

fn only_own_cgroup(path: &Path) -> MountError {
    MountError::Unsupported(format!(
        "the only cgroup v2 here, {}, is this container's own, and programs attached to it would \
         not run for other processes: mount the host's /sys/fs/cgroup into the container (with all \
         mounts below it), or select this one with --cgroup-root",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
22 1 0:21 / /proc rw - proc proc rw
30 1 0:26 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime shared:10 - cgroup cgroup rw,cpu
41 30 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:11 - cgroup2 cgroup2 rw
";

    /// The mounts that runc and crun create on a host with unified cgroups.
    const CONTAINER: &str = "\
900 880 0:99 / / ro,relatime - overlay overlay ro
905 900 0:25 / /sys ro,nosuid - sysfs sysfs ro
906 905 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw
911 900 0:26 /../../.. /host/cgroup ro,relatime - cgroup2 cgroup2 rw
912 900 0:30 / /host/bpf rw,relatime - bpf bpf rw
";

    fn highest_path(table: &str) -> Option<PathBuf> {
        let mounts = table::parse(table).into_iter().filter(|mount| mount.kind == KIND);
        Some(mounts.min_by_key(depth)?.path)
    }

    #[test]
    fn cgroup_v2_is_found_in_a_hybrid_hierarchy() {
        assert_eq!(highest_path(HYBRID), Some("/sys/fs/cgroup/uni fied".into()));
    }

    #[test]
    fn in_a_container_the_hosts_cgroup_is_preferred_to_its_own() {
        assert_eq!(highest_path(CONTAINER), Some("/host/cgroup".into()));
    }

    #[test]
    fn without_a_cgroup_namespace_the_hosts_cgroup_is_preferred_too() {
        let table = CONTAINER
            .replace("0:26 / /sys", "0:26 /kubepods/pod1/c /sys")
            .replace("/../../.. /host", "/ /host");
        assert_eq!(highest_path(&table), Some("/host/cgroup".into()));
    }

    #[test]
    fn a_covered_mount_is_not_used() {
        let over = "913 905 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n";
        let table = format!("{CONTAINER}{over}").replace("/host/cgroup", "/sys/fs/cgroup");
        assert_eq!(highest_path(&table), None);
    }

    #[test]
    fn a_folder_outside_cgroup_v2_is_refused_by_name() {
        let error = cgroup(Some(Path::new("/proc"))).expect_err("/proc is not a cgroup");
        assert!(
            error.to_string().starts_with("--cgroup-root /proc: not in a cgroup v2"),
            "{error}"
        );
    }
}
