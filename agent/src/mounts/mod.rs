//! Finds cgroup v2 and the BPF file system, and mounts them if needed.
//!
//! Called by the agent at its start, by the helper (which mounts the BPF file system again after it was
//! unmounted) and by commands that only read, which never mount. Uses nothing of this crate.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs},
};

/// Why there is no such file system.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("cannot {action}")]
    Io { action: String, source: io::Error },
    #[error("{0}")]
    Unsupported(String),
}

impl MountError {
    const fn io(action: String, source: io::Error) -> Self {
        Self::Io { action, source }
    }
}

const MOUNT_TABLE: &str = "/proc/self/mountinfo";
/// Where the BPF file system usually is.
const BPFFS: &str = "/sys/fs/bpf";
/// Where a cgroup v2 file system is mounted when there is none.
const OWN_CGROUP2: &str = "/run/sockline/cgroup2";

/// The cgroup that programs are attached to: the given one, otherwise the root of cgroup v2 from
/// the mount table, which is mounted if there is none. On hybrid hierarchies it is
/// `/sys/fs/cgroup/unified`; in a container it can be anywhere, beside the container's own.
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
    if let Some(found) = highest(mounts_of("cgroup2", &mount_table()?)) {
        return if is_own_cgroup(&found) {
            Err(only_own_cgroup(&found.path))
        } else {
            Ok(found.path)
        };
    }
    mount_new("cgroup2", Path::new(OWN_CGROUP2)).map_err(|error| {
        MountError::Unsupported(format!(
            "no cgroup v2 file system is mounted, and mounting one on {OWN_CGROUP2} failed: {error}; \
             sockline needs cgroup v2 (kernel option CONFIG_CGROUP_BPF) and CAP_SYS_ADMIN"
        ))
    })?;
    Ok(OWN_CGROUP2.into())
}

/// The mount that shows most of the hierarchy.
fn highest(mounts: Vec<Mount>) -> Option<Mount> {
    let usable = |path: &PathBuf| kind_of(path).is_ok_and(|kind| kind == CGROUP2_SUPER_MAGIC);
    mounts.into_iter().filter(|mount| usable(&mount.path)).min_by_key(Mount::depth)
}

/// As [`cgroup`], for commands that only read: never mounts. `None` where cgroup v2 is not mounted.
pub fn cgroup_for_reading(given: Option<&Path>) -> Result<Option<PathBuf>, MountError> {
    match given {
        Some(_) => cgroup(given).map(Some),
        None => Ok(highest(mounts_of("cgroup2", &mount_table()?)).map(|mount| mount.path)),
    }
}

/// A folder in a BPF file system: the one given, else the file system's root. Mounts one on the
/// folder if it is in none.
pub fn bpffs(given: Option<&Path>) -> Result<PathBuf, MountError> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => mounted_bpffs()?,
    };
    let io_error = |error| MountError::io(format!("make the folder {}", path.display()), error);
    if nearest_kind(&path).map_err(io_error)? == BPF_FS_MAGIC {
        fs::create_dir_all(&path).map_err(io_error)?;
        return Ok(path);
    }
    mount_new("bpf", &path).map_err(|error| {
        MountError::Unsupported(format!(
            "{} is not in a BPF file system, and mounting one there failed: {error}; sockline needs \
             it to keep its kernel state over restarts, and CAP_SYS_ADMIN to mount it",
            path.display()
        ))
    })?;
    Ok(path)
}

/// Where the BPF file system is mounted that a path is in.
pub fn mount_point_of(bpffs: &Path) -> PathBuf {
    let is_bpf = |path: &&Path| kind_of(path).is_ok_and(|kind| kind == BPF_FS_MAGIC);
    bpffs.ancestors().take_while(is_bpf).last().unwrap_or(bpffs).to_owned()
}

/// Mounts the BPF file system again if it was unmounted.
pub fn bpffs_again(mount_point: &Path) -> Result<(), MountError> {
    if kind_of(mount_point).is_ok_and(|kind| kind == BPF_FS_MAGIC) {
        return Ok(());
    }
    mount_new("bpf", mount_point).map_err(|error| {
        MountError::io(
            format!(
                "mount a BPF file system on {} again; what is pinned is gone, and the kernel state \
                 will not outlive this agent",
                mount_point.display()
            ),
            error,
        )
    })
}

/// As [`bpffs`], for commands that only read: never mounts or makes anything.
pub fn bpffs_for_reading(given: Option<&Path>) -> Result<PathBuf, MountError> {
    Ok(match given {
        Some(path) => path.to_owned(),
        None => mounted_bpffs()?,
    })
}

fn mounted_bpffs() -> Result<PathBuf, MountError> {
    let first = mounts_of("bpf", &mount_table()?).into_iter().next();
    Ok(first.map_or_else(|| BPFFS.into(), |mount| mount.path))
}

fn mount_table() -> Result<String, MountError> {
    fs::read_to_string(MOUNT_TABLE)
        .map_err(|error| MountError::io(format!("read the mount table {MOUNT_TABLE}"), error))
}

/// A line of the mount table.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The path in the file system that is mounted here.
    root: String,
    path: PathBuf,
}

impl Mount {
    /// How far below this process's cgroup namespace the mount begins. A container's own mount of
    /// cgroup v2 begins at the container's cgroup, which the namespace calls `/`; the host's, mounted
    /// into the container, is at `/../../..`, by as many levels as the container is below it
    /// (Linux `cgroup_show_path`, cgroup_namespaces(7)).
    fn depth(&self) -> isize {
        let names = self.root.split('/').filter(|name| !name.is_empty());
        names.map(|name| if name == ".." { -1 } else { 1 }).sum()
    }
}

/// The mounts of a file system type, in the table's order. Of several on one mount point only the
/// last can be seen. The table writes blanks as `\040`.
fn mounts_of(kind: &str, table: &str) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for line in table.lines() {
        // id, parent, device, root, mount point, options, …, then behind a dash the type.
        let mut fields = line.split(' ').skip(3);
        let (Some(root), Some(path)) = (fields.next(), fields.next()) else { continue };
        let path = PathBuf::from(path.replace("\\040", " "));
        mounts.retain(|mount| mount.path != path);
        if line.split_once(" - ").is_some_and(|(_, rest)| rest.split(' ').next() == Some(kind)) {
            mounts.push(Mount { root: root.to_owned(), path });
        }
    }
    mounts
}

/// Whether a mount shows only the container's own cgroup. Programs attached there would serve no
/// other process.
fn is_own_cgroup(mount: &Mount) -> bool {
    // Every cgroup but the real root has this file (Linux `cgroup-v2.rst`).
    let is_real_root = !mount.path.join("cgroup.type").exists();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    !is_real_root && mount.root == "/" && own.lines().any(|line| line == "0::/")
}

fn only_own_cgroup(path: &Path) -> MountError {
    MountError::Unsupported(format!(
        "the only cgroup v2 here, {}, is this container's own, and what is attached to it would \
         serve no other process: mount the host's /sys/fs/cgroup into the container (with all that \
         is mounted below it), or ask for this one with --cgroup-root",
        path.display()
    ))
}

fn mount_new(kind: &str, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(kind), target, Some(kind), flags, None::<&str>)?;
    Ok(())
}

fn kind_of(path: &Path) -> io::Result<FsType> {
    Ok(statfs(path)?.filesystem_type())
}

/// The file system of a path, or of the nearest folder above it that exists.
fn nearest_kind(path: &Path) -> io::Result<FsType> {
    match kind_of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if parent != Path::new("") => nearest_kind(parent),
            _ => Err(error),
        },
        kind => kind,
    }
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

    /// As runc and crun lay it out on a host with unified cgroups.
    const CONTAINER: &str = "\
900 880 0:99 / / ro,relatime - overlay overlay ro
905 900 0:25 / /sys ro,nosuid - sysfs sysfs ro
906 905 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw
911 900 0:26 /../../.. /host/cgroup ro,relatime - cgroup2 cgroup2 rw
912 900 0:30 / /host/bpf rw,relatime - bpf bpf rw
";

    fn paths(kind: &str, table: &str) -> Vec<PathBuf> {
        mounts_of(kind, table).into_iter().map(|mount| mount.path).collect()
    }

    fn highest_path(table: &str) -> Option<PathBuf> {
        Some(mounts_of("cgroup2", table).into_iter().min_by_key(Mount::depth)?.path)
    }

    #[test]
    fn cgroup_v2_is_found_in_a_hybrid_hierarchy() {
        assert_eq!(highest_path(HYBRID), Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(paths("bpf", HYBRID), Vec::<PathBuf>::new());
    }

    #[test]
    fn in_a_container_the_hosts_cgroup_is_preferred_to_its_own() {
        assert_eq!(highest_path(CONTAINER), Some("/host/cgroup".into()));
        assert_eq!(paths("bpf", CONTAINER), [PathBuf::from("/host/bpf")]);
    }

    #[test]
    fn without_a_cgroup_namespace_the_containers_own_is_below_as_well() {
        let table = CONTAINER
            .replace("0:26 / /sys", "0:26 /kubepods/pod1/c /sys")
            .replace("/../../.. /host", "/ /host");
        assert_eq!(highest_path(&table), Some("/host/cgroup".into()));
    }

    #[test]
    fn a_mount_that_is_covered_by_another_is_not_seen() {
        let over = "913 905 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n";
        let table = format!("{CONTAINER}{over}").replace("/host/cgroup", "/sys/fs/cgroup");
        assert_eq!(highest_path(&table), None);
    }

    #[test]
    fn a_folder_outside_cgroup_v2_is_refused_by_name() {
        let error = cgroup(Some(Path::new("/proc"))).expect_err("proc is no cgroup");
        assert!(
            error.to_string().starts_with("--cgroup-root /proc: not in a cgroup v2"),
            "{error}"
        );
    }
}
