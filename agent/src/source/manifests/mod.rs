//! A folder of manifests.
//!
//! [`folder`] reads it once, with [`file`] for the text of one file, `document` for one document in it and `scan` for
//! which files there are; [`follow`] reads it as it changes (`inotify`), and `file_state` compares it with what was read before.

mod document;
pub mod file;
mod file_state;
pub mod folder;
pub mod follow;
mod inotify;
mod scan;
