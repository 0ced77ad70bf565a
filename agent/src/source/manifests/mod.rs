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
