//! The state that the events of a source add up to: objects, lists and errors. The tests of both sources read this file:
//! `folder_follow.rs`, and `tests/tests/list_and_watch/`.

use std::collections::{BTreeMap, BTreeSet};

use sockline::{
    model::object::{InputError, Kind},
    source::{Completeness, Event, Sourced},
};

pub(crate) struct SourceState {
    /// By `Kind namespace/name`.
    pub(crate) objects: BTreeMap<String, Sourced>,
    /// The kinds a `Replace` came for.
    pub(crate) listed: BTreeSet<Kind>,
    pub(crate) errors: Vec<InputError>,
    /// As last sent; complete before it was sent.
    pub(crate) completeness: Completeness,
    /// All events, in order.
    pub(crate) log: Vec<Event>,
}

impl SourceState {
    pub(crate) fn empty() -> Self {
        Self {
            objects: BTreeMap::new(),
            listed: BTreeSet::new(),
            errors: Vec::new(),
            completeness: Completeness::Complete,
            log: Vec::new(),
        }
    }

    pub(crate) fn apply(&mut self, event: Event) {
        match event.clone() {
            Event::Replace(kind, objects) => {
                self.objects.retain(|_, object| object.reference.kind != kind);
                self.objects.extend(objects.into_iter().map(|o| (o.reference.to_string(), o)));
                self.listed.insert(kind);
            }
            Event::Apply(object) => {
                self.objects.insert(object.reference.to_string(), object);
            }
            Event::Delete(reference) => {
                self.objects.remove(&reference.to_string());
            }
            Event::SourceErrors(errors) => self.errors = errors,
            Event::Completeness(completeness) => self.completeness = completeness,
        }
        self.log.push(event);
    }

    pub(crate) fn has_all_lists(&self) -> bool {
        self.listed.len() == Kind::ALL.len()
    }

    /// The errors, a line each.
    pub(crate) fn error_text(&self) -> String {
        self.errors.iter().map(|error| format!("{error}\n")).collect()
    }
}
