//! What a source reports: the objects it has, and how they change.

use std::sync::Arc;

use super::object::{Kind, Object, ObjectName, ObjectRef, Problem};

/// A change, as a source reports it. A source first sends one `Replace` per kind.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly every event is the largest one")]
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
    /// The service that an EndpointSlice names, if nothing else of it can be used.
    pub service: Option<Arc<str>>,
    pub problems: Vec<Problem>,
}

impl Sourced {
    /// The service of which nothing can be said, because this object cannot be used: what is programmed
    /// for it stays as it is.
    #[must_use]
    pub fn retains(&self) -> Option<ObjectName> {
        if self.object.is_some() {
            return None;
        }
        let ObjectRef { kind, name } = &self.reference;
        match kind {
            Kind::Service => Some(name.clone()),
            Kind::EndpointSlice => {
                let service = self.service.as_ref()?;
                Some(ObjectName::new(Arc::clone(&name.namespace), Arc::clone(service)))
            }
            Kind::Node | Kind::Namespace | Kind::Pod => None,
        }
    }

    /// Nothing of it can be used, and there is no telling what that concerns.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.object.is_none() && self.retains().is_none()
    }
}
