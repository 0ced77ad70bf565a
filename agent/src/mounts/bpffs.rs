//! Finds and mounts the BPF file system.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::sys::statfs::BPF_FS_MAGIC;

use super::{
    file_system::{MountError, kind_of, mount_new, nearest_kind},
    table,
};

/// The type in the mount table.
const KIND: &str = "bpf";
/// Where the BPF file system usually is.
const DEFAULT: &str = "/sys/fs/bpf";

/// A folder in a BPF file system: the given one, otherwise the file system's root. Mounts a BPF file system on
/// the folder if it is not in one.
pub fn bpffs(given: Option<&Path>) -> Result<PathBuf, MountError> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => mounted_bpffs()?,
    };
    let io_error = |error| MountError::io(format!("create the folder {}", path.display()), error);
    if nearest_kind(&path).map_err(io_error)? == BPF_FS_MAGIC {
        fs::create_dir_all(&path).map_err(io_error)?;
        return Ok(path);
    }
    mount_new(KIND, &path).map_err(|error| {
        MountError::Unsupported(format!(
            "{} is not in a BPF file system, and mounting one there failed: {error}; sockline needs \
             it to keep its kernel state over restarts, and CAP_SYS_ADMIN to mount it",
            path.display()
        ))
    })?;
    Ok(path)
}

/// The mount point of the BPF file system that contains a path.
pub fn mount_point_of(bpffs: &Path) -> PathBuf {
    let is_bpf = |path: &&Path| kind_of(path).is_ok_and(|kind| kind == BPF_FS_MAGIC);
    bpffs.ancestors().take_while(is_bpf).last().unwrap_or(bpffs).to_owned()
}

/// Mounts the BPF file system again if it was unmounted.
pub fn remount_bpffs(mount_point: &Path) -> Result<(), MountError> {
    if kind_of(mount_point).is_ok_and(|kind| kind == BPF_FS_MAGIC) {
        return Ok(());
    }
    mount_new(KIND, mount_point).map_err(|error| {
        MountError::io(
            format!(
                "mount a BPF file system on {} again; the pins are gone, and the kernel state will not \
                 outlive this agent",
                mount_point.display()
            ),
            error,
        )
    })
}

/// As [`bpffs`], for commands that only read: mounts nothing and creates no folder.
pub fn bpffs_for_reading(given: Option<&Path>) -> Result<PathBuf, MountError> {
    Ok(match given {
        Some(path) => path.to_owned(),
        None => mounted_bpffs()?,
    })
}

fn mounted_bpffs() -> Result<PathBuf, MountError> {
    let all = table::read()
        .map_err(|error| MountError::io(format!("read the mount table {}", table::PATH), error))?;
    let first = all.into_iter().find(|mount| mount.kind == KIND);
    Ok(first.map_or_else(|| DEFAULT.into(), |mount| mount.path))
}
