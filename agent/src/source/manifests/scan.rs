//! One scan of the folder: whether it exists, whether it changed, and what is in it.

use std::{collections::BTreeMap, ffi::OsString, fs, io, os::unix::fs::MetadataExt, path::Path};

use super::folder::FolderContents;

/// The state of the folder, as far as it can be had without opening files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// Device and inode.
    dir: (u64, u64),
    /// `None`: unknown, which no state equals.
    files: Option<BTreeMap<OsString, Option<FileState>>>,
}

/// Symbolic links are followed: in a ConfigMap mount every file is a link through `..data`, and a
/// new version changes only where that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileState {
    dev: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Changes with permissions, which `modified` does not.
    changed: (i64, i64),
}

pub(super) enum Scan {
    Missing(io::Error),
    /// Unchanged.
    Same,
    New {
        contents: FolderContents,
        fingerprint: Fingerprint,
        /// Nothing changed while it was read.
        steady: bool,
    },
}

impl Fingerprint {
    fn of(dir: &Path) -> io::Result<Self> {
        let meta = fs::metadata(dir)?;
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // A file that cannot be examined (a dangling link, gone since) still is a state.
            let state = fs::metadata(entry.path()).ok().map(|meta| FileState {
                dev: meta.dev(),
                inode: meta.ino(),
                size: meta.size(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            });
            files.insert(entry.file_name(), state);
        }
        Ok(Self { dir: (meta.dev(), meta.ino()), files: Some(files) })
    }

    pub(super) fn forget_files(&mut self) {
        self.files = None;
    }

    pub(super) fn unknown(mut self) -> Self {
        self.forget_files();
        self
    }
}

/// Reads the folder unless its state is `seen`. The state is taken before and after: to `read`, a folder that is
/// removed half-way looks empty, and that must not delete its objects.
pub(super) fn scan(
    dir: &Path,
    seen: Option<&Fingerprint>,
    read: &mut impl FnMut(&Path) -> FolderContents,
) -> Scan {
    let before = match Fingerprint::of(dir) {
        Ok(before) => before,
        Err(error) => return Scan::Missing(error),
    };
    if seen == Some(&before) {
        return Scan::Same;
    }
    let contents = read(dir);
    match Fingerprint::of(dir) {
        Ok(after) => Scan::New { contents, steady: before == after, fingerprint: after },
        Err(error) => Scan::Missing(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn fingerprint(result: Scan) -> Fingerprint {
        match result {
            Scan::New { fingerprint, steady: true, .. } => fingerprint,
            _ => panic!("a folder that does not change is new and steady at the first scan"),
        }
    }

    fn nothing(_: &Path) -> FolderContents {
        FolderContents::default()
    }

    #[test]
    fn a_folder_that_vanishes_while_it_is_read_is_missing_not_empty() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("manifests");
        fs::create_dir(&dir).unwrap();
        let seen = scan(&dir, None, &mut |dir| {
            fs::remove_dir(dir).unwrap();
            FolderContents::default()
        });
        assert!(matches!(seen, Scan::Missing(error) if error.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn a_folder_that_changes_while_it_is_read_is_unsteady() {
        let dir = tempfile::tempdir().unwrap();
        let seen = scan(dir.path(), None, &mut |dir| {
            fs::write(dir.join("late.yaml"), "").unwrap();
            FolderContents::default()
        });
        assert!(matches!(seen, Scan::New { steady: false, .. }));
    }

    #[test]
    fn only_a_different_folder_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "1").unwrap();
        let first = fingerprint(scan(dir.path(), None, &mut nothing));
        assert!(matches!(scan(dir.path(), Some(&first), &mut nothing), Scan::Same));
        fs::write(dir.path().join("a.yaml"), "longer").unwrap();
        assert!(matches!(scan(dir.path(), Some(&first), &mut nothing), Scan::New { .. }));
    }

    #[test]
    fn a_file_behind_an_unchanged_link_counts() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = elsewhere.path().join("a.yaml");
        fs::write(&target, "1").unwrap();
        symlink(&target, dir.path().join("a.yaml")).unwrap();
        let first = fingerprint(scan(dir.path(), None, &mut nothing));
        fs::write(&target, "longer").unwrap();
        assert!(matches!(scan(dir.path(), Some(&first), &mut nothing), Scan::New { .. }));
    }
}
