//! Where objects come from: a folder of manifests or the Kubernetes API.

pub mod follow;
pub mod kube;
pub mod stats;
pub mod troubles;

use crate::model::object::{Kind, Object, ObjectRef, Problem};

/// A change, as a source reports it. A source first sends one `Replace` per kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// All objects of one kind, after a (re-)list: what is not in it is gone.
    Replace(Kind, Vec<Sourced>),
    /// A new or changed object.
    Apply(Sourced),
    /// An object that is gone (or became one that is not ours).
    Delete(ObjectRef),
    /// What is wrong at the moment with the source itself (a file that does not parse, a folder
    /// that is gone, an API server that does not answer); replaces what was said before.
    Trouble(Vec<Problem>),
}

/// An object and what had to be left out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced {
    pub reference: ObjectRef,
    /// `None`: nothing of it can be used (`problems` says why).
    pub object: Option<Object>,
    pub problems: Vec<Problem>,
}
