//! What a source reports: the objects it has, and how they change.

use std::sync::Arc;

use super::object::{InputError, Kind, Object, ObjectName, ObjectRef};

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
    /// The current errors of the source itself (a file that does not parse, a folder that is gone, an
    /// API server that does not answer). Replaces the previous list.
    SourceErrors(Vec<InputError>),
    /// Whether all of the source can be read; initially it can. While it cannot (a manifest that does
    /// not parse), there may be objects that were never reported. Not every error of the source has
    /// this effect: a manifest of a kind that is not used here hides no object.
    Completeness(Completeness),
}

/// Whether all of a source can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Completeness {
    #[default]
    Complete,
    Incomplete,
}

/// An object, and the errors in the parts of it that are not used.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced {
    pub reference: ObjectRef,
    /// `None`: nothing of it can be used; `input_errors` has the reason.
    pub object: Option<Object>,
    /// The service that an EndpointSlice names, if nothing else of it can be used.
    pub service: Option<Arc<str>>,
    pub input_errors: Vec<InputError>,
}

impl Sourced {
    /// The service that keeps what is programmed for it, because this object of it cannot be used.
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

    /// Nothing of it can be used, and the service that it concerns is unknown.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.object.is_none() && self.retains().is_none()
    }
}
