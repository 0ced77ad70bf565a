//! What a source reports: the objects it has, and how they change.

use super::object::{Kind, Object, ObjectRef, Problem};

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
    /// Whether all of the source can be read at the moment; it can until it says otherwise. While
    /// it cannot (a manifest that does not parse), there may be objects that were never reported.
    /// Not every trouble is that: a manifest of a kind that is not used here hides nothing.
    Complete(bool),
}

/// An object and what had to be left out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced {
    pub reference: ObjectRef,
    /// `None`: nothing of it can be used (`problems` says why).
    pub object: Option<Object>,
    pub problems: Vec<Problem>,
}
