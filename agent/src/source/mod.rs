//! Where objects come from: a folder of manifests or the Kubernetes API.
//!
//! [`convert`] turns one typed Kubernetes object into the model's and says what it left out;
//! [`decode`] does the same from parsed JSON; [`manifest`] reads the text of one file; [`folder`]
//! reads a folder of them once, [`follow`] as it changes; [`kube`] watches the API server.

pub mod convert;
pub mod decode;
pub mod folder;
pub mod follow;
pub mod kube;
pub mod manifest;
pub mod stats;
mod troubles;

use std::path::Path;

use self::{
    folder::{File, read_folder},
    follow::{FileSnapshot, Snapshot},
};
pub use self::{
    kube::{SourceError, client, config},
    stats::{SourceStats, WatchState},
};
pub use crate::model::event::{Event, Sourced};

/// Reads a folder for [`follow::follow`]. A folder that cannot be listed reads as empty: whoever
/// follows it has noticed and does not use that.
#[must_use]
pub fn snapshot(folder: &Path) -> Snapshot {
    let files = read_folder(folder).map(|contents| contents.files).unwrap_or_default();
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
