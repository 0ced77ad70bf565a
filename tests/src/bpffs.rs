//! A private folder in bpffs for one node's pins.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::{mounts, owner};

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Removed with everything pinned in it when dropped: unpinning the last link detaches its program.
pub(crate) struct BpffsDir {
    path: PathBuf,
}

impl BpffsDir {
    pub(crate) fn create(node: u32) -> Result<Self> {
        let root = find_or_mount()?;
        owner::remove_stale_folders(&root);
        let path = root.join(format!("{}-{node}", owner::process_name()));
        fs::create_dir(&path).with_context(|| {
            format!("creating {} in bpffs (needs root and a writable bpffs)", path.display())
        })?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BpffsDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("testbed: removing {}: {error}", self.path.display());
        }
    }
}

fn find_or_mount() -> Result<PathBuf> {
    if let Some(found) = mounts::first_of_type("bpf")? {
        return Ok(found);
    }
    // Of two test processes that mount at the same time, one would hide the folders of the other.
    let lock_path = std::env::temp_dir().join("sockline-testbed.lock");
    let lock = File::create(&lock_path)
        .and_then(|file| file.lock().map(|()| file))
        .with_context(|| format!("locking {}", lock_path.display()))?;
    let found = match mounts::first_of_type("bpf")? {
        Some(found) => found,
        None => {
            mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), None::<&str>)
                .with_context(|| {
                    format!(
                        "bpffs is not mounted and could not be: try `sudo mount -t bpf bpf {MOUNT_POINT}`"
                    )
                })?;
            PathBuf::from(MOUNT_POINT)
        }
    };
    drop(lock);
    Ok(found)
}
