//! The type of the file system at a path, and mounting one.

use std::{fs, io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

/// Why a file system is not available.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("cannot {action}")]
    Io { action: String, source: io::Error },
    #[error("{0}")]
    Unsupported(String),
}

impl MountError {
    pub(super) const fn io(action: String, source: io::Error) -> Self {
        Self::Io { action, source }
    }
}

/// Mounts a file system of this type, and creates the folder for it.
pub fn mount_new(kind: &str, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(kind), target, Some(kind), flags, None::<&str>)?;
    Ok(())
}

pub fn kind_of(path: &Path) -> io::Result<FsType> {
    Ok(statfs(path)?.filesystem_type())
}

/// The file system of a path, or of its nearest ancestor that exists.
pub fn nearest_kind(path: &Path) -> io::Result<FsType> {
    match kind_of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if parent != Path::new("") => nearest_kind(parent),
            _ => Err(error),
        },
        kind => kind,
    }
}
