//! Removal of pins: those of another layout version, stale ones, and all of them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::layout::Pins;
use crate::{bpf::pin::detach, dataplane::error::DataplaneError};

impl Pins {
    /// The directories of other layout versions.
    pub fn others(&self) -> Vec<PathBuf> {
        let own = self.directory();
        let mut others = self.directories();
        others.retain(|path| *path != own && !is_removed(path) && !is_replaced(path));
        others
    }

    /// The directories of layouts whose programs do not run any more, and whose counts may still be needed.
    pub fn replaced(&self) -> Vec<PathBuf> {
        let mut directories = self.directories();
        directories.retain(|path| is_replaced(path));
        directories
    }

    /// Marks the directory of another layout version: its programs do not run any more. An agent of that layout begins
    /// with a new one.
    pub fn mark_replaced(&self, other: &Path) -> Result<PathBuf, DataplaneError> {
        let name = other.file_name().unwrap_or_default().to_string_lossy();
        let places = (1..).map(|number: u32| self.root.join(format!("{REPLACED}{number}_{name}")));
        let place = places.into_iter().find(|path| !path.exists()).unwrap_or_default();
        fs::rename(other, &place)
            .map_err(|error| DataplaneError::io(format!("rename {}", other.display()), error))?;
        Ok(place)
    }

    fn directories(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect()
    }

    /// Removes the directory of another layout version. It is renamed first, so that after a kill
    /// in the middle no agent takes over what is left.
    pub fn remove_other(&self, other: &Path) -> Result<(), DataplaneError> {
        self.retire(other)
            .map_err(|error| DataplaneError::io(format!("remove {}", other.display()), error))?;
        self.finish_removal()
    }

    /// Finishes a removal during which an agent ended. Detaches nothing: links in there may have
    /// been taken over and be pinned in this layout's directory too.
    pub fn finish_removal(&self) -> Result<(), DataplaneError> {
        for removed in self.directories().into_iter().filter(|path| is_removed(path)) {
            remove_tree(&removed, &mut Vec::new()).map_err(|error| {
                DataplaneError::io(format!("remove {}", removed.display()), error)
            })?;
        }
        Ok(())
    }

    fn retire(&self, directory: &Path) -> io::Result<()> {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        fs::rename(directory, self.root.join(format!("{REMOVED}{name}")))
    }

    /// Whether there are attachments in a directory of this layout version.
    #[must_use]
    pub fn have_links(&self) -> bool {
        has_entries(&self.links())
    }

    /// Whether there are attachments in a directory of another layout version.
    #[must_use]
    pub fn others_have_links(&self) -> bool {
        self.others().iter().any(|other| has_entries(&other.join("links")))
    }

    /// Whether what was counted is in the maps of another layout, at least in part: this one has not taken over yet.
    pub fn others_have_counts(&self) -> bool {
        self.others_have_links() || !self.replaced().is_empty()
    }

    /// Removes all pins, which detaches the programs and frees the maps. Returns what was removed.
    pub fn remove(&self) -> Result<Vec<PathBuf>, DataplaneError> {
        let mut removed = Vec::new();
        for directory in self.directories() {
            detach_all(&directory.join("links"));
        }
        self.finish_removal()?;
        for directory in self.directories() {
            self.retire(&directory).map_err(|error| {
                DataplaneError::io(format!("remove {}", directory.display()), error)
            })?;
        }
        remove_tree(&self.root, &mut removed).map_err(|error| {
            DataplaneError::io(format!("remove {}", self.root.display()), error)
        })?;
        Ok(removed)
    }
}

/// Prefix of directories that are being removed.
const REMOVED: &str = "removed_";

/// Prefix of directories of other layouts whose programs were replaced.
const REPLACED: &str = "replaced_";

fn is_removed(directory: &Path) -> bool {
    begins_with(directory, REMOVED)
}

fn is_replaced(directory: &Path) -> bool {
    begins_with(directory, REPLACED)
}

fn begins_with(directory: &Path, prefix: &str) -> bool {
    directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

fn has_entries(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

/// Detaches the programs of all links in a directory, so that none is called any more. For a link
/// that cannot be detached, the removal of its pin has the same effect later.
fn detach_all(links: &Path) {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        detach(&entry.path(), &[]);
    }
}

/// Removes a directory of pins; links first, so that no program runs on maps that are gone.
pub fn remove_tree(path: &Path, removed: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries: Vec<_> = match fs::read_dir(path) {
        Ok(entries) => entries.collect::<Result<_, _>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path(), removed)?;
        } else {
            fs::remove_file(entry.path())?;
            removed.push(entry.path());
        }
    }
    fs::remove_dir(path)
}

/// Removes stale pins from a directory: those with none of these names. An agent was killed between
/// two steps, or its build pins more. Programs of stale links are detached at once.
///
/// Links with these ids stay attached: a stale pin may be one that was made beside its place before
/// an agent was killed.
pub fn remove_stale(directory: &Path, known: &[&str], kept: &[u32]) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| known.contains(&name)) {
            continue;
        }
        let path = entry.path();
        detach(&path, kept);
        tracing::info!(pin = %path.display(), "removing a stale pin");
        if let Err(error) = remove_tree(&path, &mut Vec::new()).or_else(|_| fs::remove_file(&path))
        {
            tracing::warn!(pin = %path.display(), %error, "cannot remove a stale pin");
        }
    }
}
