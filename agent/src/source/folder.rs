//! A folder of manifests, read once.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Event, Sourced,
    manifest::{self, Manifest},
};
use crate::model::object::{Kind, ObjectRef, Problem};

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
    /// Without objects and `incomplete` when the file could not be read.
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
/// When the folder cannot be listed. A file that cannot be read is a problem of that file.
pub fn read_folder(path: &Path) -> Result<FolderContents, FolderError> {
    let names =
        manifest_names(path).map_err(|source| FolderError { path: path.to_owned(), source })?;
    let files = names
        .into_iter()
        .filter_map(|name| {
            let manifest = match read_file(&path.join(&name)) {
                Ok(text) => manifest::parse(&name, &text?),
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

/// `None` for what is not a file: reading a pipe would never end.
fn read_file(path: &Path) -> io::Result<Option<String>> {
    if fs::metadata(path)?.is_file() { fs::read_to_string(path).map(Some) } else { Ok(None) }
}

fn unreadable(name: &str, error: &io::Error) -> Manifest {
    let problem = Problem {
        object: format!("file {name}"),
        field: String::new(),
        message: format!("cannot be read: {error}; it is left out"),
    };
    Manifest { objects: Vec::new(), problems: vec![problem], incomplete: true }
}

impl FolderContents {
    /// One `Replace` for each kind, then the files' own problems as `Trouble`.
    ///
    /// Of an object that is there more than once the first counts, in the order of the file names.
    #[must_use]
    pub fn into_events(self) -> Vec<Event> {
        let mut trouble = Vec::new();
        let mut objects: HashMap<Kind, Vec<Sourced>> = HashMap::new();
        let mut origin: HashMap<ObjectRef, String> = HashMap::new();
        for File { name, manifest } in self.files {
            trouble.extend(manifest.problems);
            for sourced in manifest.objects {
                if let Some(first) = origin.get(&sourced.reference) {
                    trouble.push(duplicate(&sourced.reference, first, &name));
                } else {
                    origin.insert(sourced.reference.clone(), name.clone());
                    objects.entry(sourced.reference.kind).or_default().push(sourced);
                }
            }
        }
        trouble.sort();
        Kind::ALL
            .into_iter()
            .map(|kind| Event::Replace(kind, objects.remove(&kind).unwrap_or_default()))
            .chain([Event::Trouble(trouble)])
            .collect()
    }
}

fn duplicate(reference: &ObjectRef, first: &str, second: &str) -> Problem {
    let message = if first == second {
        format!("twice in file {first}; only the first counts")
    } else {
        format!("in file {first} and again in file {second}; only the first counts")
    };
    Problem { object: reference.to_string(), field: String::new(), message }
}

#[cfg(test)]
mod tests;
