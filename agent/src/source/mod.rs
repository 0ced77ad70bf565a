//! Where objects come from: a folder of manifests or the Kubernetes API.
//!
//! [`convert`] turns one typed Kubernetes object into the model's and says what it left out;
//! [`decode`] does the same from parsed JSON; [`manifest`] reads the text of one file; [`folder`]
//! reads a folder of them once.

pub mod convert;
pub mod decode;
pub mod folder;
pub mod manifest;

pub use crate::model::event::{Event, Sourced};
