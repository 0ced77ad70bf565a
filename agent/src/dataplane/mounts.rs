//! Finding, and if need be mounting, cgroup v2 and the BPF file system.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs},
};

use super::error::DataplaneError;

/// Where the BPF file system usually is.
const BPFFS: &str = "/sys/fs/bpf";
/// Where a cgroup v2 file system is mounted when there is none.
const OWN_CGROUP2: &str = "/run/sockline/cgroup2";

/// The cgroup that programs are attached to: the one given, else the root of cgroup v2, which is
/// looked up in the mount table (it is `/sys/fs/cgroup/unified` on hybrid hierarchies) and
/// mounted if it is nowhere.
pub fn cgroup(given: Option<&Path>) -> Result<PathBuf, DataplaneError> {
    if let Some(path) = given {
        return match kind_of(path) {
            Ok(CGROUP2_SUPER_MAGIC) => Ok(path.to_owned()),
            Ok(_) => Err(DataplaneError::Unsupported(format!(
                "--cgroup {}: not in a cgroup v2 file system (`mount | grep cgroup2` shows where \
                 one is)",
                path.display()
            ))),
            Err(error) => {
                Err(DataplaneError::io(format!("use --cgroup {}", path.display()), error))
            }
        };
    }
    if let Some(found) = mounted("cgroup2", &mount_table()?) {
        return Ok(found);
    }
    mount_new("cgroup2", Path::new(OWN_CGROUP2)).map_err(|error| {
        DataplaneError::Unsupported(format!(
            "no cgroup v2 file system is mounted, and mounting one on {OWN_CGROUP2} failed: {error}; \
             sockline needs cgroup v2 (kernel option CONFIG_CGROUP_BPF) and CAP_SYS_ADMIN"
        ))
    })?;
    Ok(OWN_CGROUP2.into())
}

/// As [`cgroup`], for commands that only read: never mounts. `None` where cgroup v2 is not mounted.
pub fn cgroup_for_reading(given: Option<&Path>) -> Result<Option<PathBuf>, DataplaneError> {
    match given {
        Some(_) => cgroup(given).map(Some),
        None => Ok(mounted("cgroup2", &mount_table()?)),
    }
}

/// A folder in a BPF file system: the one given, else the file system's root. Mounts one on the
/// folder if it is in none.
pub fn bpffs(given: Option<&Path>) -> Result<PathBuf, DataplaneError> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => mounted("bpf", &mount_table()?).unwrap_or_else(|| BPFFS.into()),
    };
    let io_error = |error| DataplaneError::io(format!("make the folder {}", path.display()), error);
    if nearest_kind(&path).map_err(io_error)? == BPF_FS_MAGIC {
        fs::create_dir_all(&path).map_err(io_error)?;
        return Ok(path);
    }
    mount_new("bpf", &path).map_err(|error| {
        DataplaneError::Unsupported(format!(
            "{} is not in a BPF file system, and mounting one there failed: {error}; sockline needs \
             it to keep its kernel state over restarts, and CAP_SYS_ADMIN to mount it",
            path.display()
        ))
    })?;
    Ok(path)
}

/// As [`bpffs`], for commands that only read: never mounts or makes anything.
pub fn bpffs_for_reading(given: Option<&Path>) -> Result<PathBuf, DataplaneError> {
    Ok(match given {
        Some(path) => path.to_owned(),
        None => mounted("bpf", &mount_table()?).unwrap_or_else(|| BPFFS.into()),
    })
}

fn mount_table() -> Result<String, DataplaneError> {
    fs::read_to_string("/proc/self/mounts")
        .map_err(|error| DataplaneError::io("read the mount table /proc/self/mounts", error))
}

/// The mount point of the first file system of a type. The mount table writes blanks as `\040`.
fn mounted(kind: &str, table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (target, found) = (fields.next()?, fields.next()?);
        (found == kind).then(|| target.replace("\\040", " ").into())
    })
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
proc /proc proc rw 0 0
tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
cgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw 0 0
";

    #[test]
    fn cgroup_v2_is_found_in_a_hybrid_hierarchy() {
        assert_eq!(mounted("cgroup2", HYBRID), Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(mounted("bpf", HYBRID), None);
    }

    #[test]
    fn a_folder_outside_cgroup_v2_is_refused_by_name() {
        let error = cgroup(Some(Path::new("/proc"))).expect_err("proc is no cgroup");
        assert!(error.to_string().starts_with("--cgroup /proc: not in a cgroup v2"), "{error}");
    }
}
