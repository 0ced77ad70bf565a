//! A folder of manifests, read once.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    hash::BuildHasher as _,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::file::{self, Manifest};
use crate::{
    model::object::{InputError, Kind, ObjectRef},
    source::{Event, Sourced},
};

/// The largest file that is read, which holds the services of a large cluster. It is read into memory.
const MAX_FILE: u64 = 32 << 20;

/// The folder itself cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the folder {}", path.display())]
pub struct FolderError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// A manifest file of a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// Its name in the folder.
    pub name: String,
    /// If the file could not be read: no objects, and `incomplete`.
    pub manifest: Manifest,
}

/// All manifest files of a folder, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FolderContents {
    pub files: Vec<File>,
}

/// Reads every `*.yaml`, `*.yml` and `*.json` directly in the folder, but for hidden ones.
///
/// Symlinks are followed: in a mounted ConfigMap every file is one, into a hidden folder that is
/// swapped as a whole.
///
/// # Errors
/// When the folder cannot be listed. A file that cannot be read is an input error of that file.
pub fn read_folder(path: &Path) -> Result<FolderContents, FolderError> {
    Reader::default().read(path)
}

/// Reads a folder repeatedly. It does not parse an unchanged file again, so that a large file does not delay changes
/// of others.
#[derive(Debug, Default)]
pub struct Reader {
    /// By name: a randomly seeded hash of the text, and the contents.
    known: HashMap<String, (u64, Manifest)>,
    hasher: foldhash::quality::RandomState,
}

impl Reader {
    /// As [`read_folder`].
    ///
    /// # Errors
    /// As [`read_folder`].
    pub fn read(&mut self, path: &Path) -> Result<FolderContents, FolderError> {
        let mut before = std::mem::take(&mut self.known);
        read_with(path, |name, text| {
            let hash = self.hasher.hash_one(text);
            let known = before.remove(name).filter(|(known, _)| *known == hash);
            let (_, manifest) = known.unwrap_or_else(|| (hash, file::parse(name, text)));
            self.known.insert(name.to_owned(), (hash, manifest.clone()));
            manifest
        })
    }
}

/// What reads a folder for [`follow`](super::follow::follow). A folder that cannot be listed reads as
/// empty: the follower compares the folder's state before and after, and does not use that.
pub fn reader() -> impl FnMut(&Path) -> FolderContents {
    let mut reader = Reader::default();
    move |folder| reader.read(folder).unwrap_or_default()
}

fn read_with(
    path: &Path,
    mut parse: impl FnMut(&str, &str) -> Manifest,
) -> Result<FolderContents, FolderError> {
    let names =
        manifest_names(path).map_err(|source| FolderError { path: path.to_owned(), source })?;
    let files = names
        .into_iter()
        .filter_map(|name| {
            let manifest = match read_file(&path.join(&name)) {
                Ok(text) => parse(&name, &text?),
                // Gone since the folder was listed; a link to nothing is still there.
                Err(_) if fs::symlink_metadata(path.join(&name)).is_err() => return None,
                Err(error) => unreadable(&name, &error),
            };
            Some(File { name, manifest })
        })
        .collect();
    Ok(FolderContents { files })
}

fn manifest_names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_manifest_name(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file of this name in the folder is read as a manifest.
#[must_use]
pub fn is_manifest_name(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// `None` if it is not a regular file: reading a pipe would not end.
fn read_file(path: &Path) -> io::Result<Option<String>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    // It may have been replaced by a pipe since, and opening one would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        let most = MAX_FILE >> 20;
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {most} MiB")));
    }
    Ok(Some(text))
}

fn unreadable(name: &str, error: &io::Error) -> Manifest {
    let input_error = InputError {
        object: format!("file {name}").into(),
        field: String::new(),
        message: format!("cannot be read: {error}; it is skipped"),
    };
    Manifest { objects: Vec::new(), input_errors: vec![input_error], incomplete: true }
}

impl FolderContents {
    /// One `Replace` for each kind, then the files' own input errors as `SourceErrors`.
    ///
    /// Of an object that exists more than once, the first counts, in the order of file names.
    #[must_use]
    pub fn into_events(self) -> Vec<Event> {
        let mut errors = Vec::new();
        let mut objects: HashMap<Kind, Vec<Sourced>> = HashMap::new();
        let mut origin: HashMap<ObjectRef, String> = HashMap::new();
        for File { name, manifest } in self.files {
            errors.extend(manifest.input_errors);
            for sourced in manifest.objects {
                if let Some(first) = origin.get(&sourced.reference) {
                    errors.push(duplicate(&sourced.reference, first, &name));
                } else {
                    origin.insert(sourced.reference.clone(), name.clone());
                    objects.entry(sourced.reference.kind).or_default().push(sourced);
                }
            }
        }
        errors.sort();
        Kind::ALL
            .into_iter()
            .map(|kind| Event::Replace(kind, objects.remove(&kind).unwrap_or_default()))
            .chain([Event::SourceErrors(errors)])
            .collect()
    }
}

/// The error for an object that is in two files, or twice in one.
pub(super) fn duplicate(reference: &ObjectRef, first: &str, second: &str) -> InputError {
    let message = if first == second {
        format!("twice in file {first}; only the first counts")
    } else {
        format!("in file {first} and again in file {second}; only the first counts")
    };
    InputError { object: reference.into(), field: String::new(), message }
}

#[cfg(test)]
mod tests;
