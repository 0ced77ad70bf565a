//! A folder of manifests.
//!
//! [`folder`] reads it once, with [`file`] for the text of one file; [`follow`] reads it as it changes.

mod document;
pub mod file;
mod file_state;
pub mod folder;
pub mod follow;
mod inotify;
mod scan;

use std::path::Path;

use self::{
    folder::File,
    follow::{FileSnapshot, Snapshot},
};

/// What reads a folder for [`follow::follow`]. A folder that cannot be listed reads as empty: whoever
/// follows it has noticed and does not use that.
pub fn snapshots() -> impl FnMut(&Path) -> Snapshot {
    let mut reader = folder::Reader::default();
    move |folder| {
        let files = reader.read(folder).map(|contents| contents.files).unwrap_or_default();
        snapshot(files)
    }
}

fn snapshot(files: Vec<File>) -> Snapshot {
    let files = files
        .into_iter()
        .map(|File { name, manifest }| FileSnapshot {
            name,
            objects: manifest.objects,
            problems: manifest.problems,
            broken: manifest.incomplete,
        })
        .collect();
    Snapshot { files }
}
