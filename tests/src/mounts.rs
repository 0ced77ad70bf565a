//! Where file systems are mounted, from the mount table.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

/// The first mount point of a file system type, if there is one.
pub(crate) fn first_of_type(fs_type: &str) -> Result<Option<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mounts")
        .context("reading the mount table /proc/self/mounts")?;
    Ok(table.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (dir, kind) = (fields.next()?, fields.next()?);
        (kind == fs_type).then(|| PathBuf::from(unescape(dir)))
    }))
}

/// The kernel writes spaces, tabs, newlines and backslashes in paths as three octal digits.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
