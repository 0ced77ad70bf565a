//! Services of which an object cannot be used at all: what is programmed for them stays.
//!
//! The content of such an object is unknown. Removing its service would turn a typo into an outage; using the
//! object's previous version would make the plan depend on how long this process runs. So the service is not
//! planned, and what is programmed for it stays, which a restarted agent finds in the maps. A Service that is
//! deleted is removed, also if one of its slices cannot be used.

use std::collections::{BTreeSet, HashMap};

use crate::model::object::{ObjectName, ObjectRef};

/// Whether the source has a Service object of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existence {
    Exists,
    Absent,
}

#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// The services that objects stand for which cannot be used.
    service_of: HashMap<ObjectRef, ObjectName>,
    /// How many objects stand for a service, whether it exists or not.
    objects: HashMap<ObjectName, usize>,
    /// Those of these services that exist.
    services: BTreeSet<ObjectName>,
}

impl Unreadable {
    /// Records which service an object belongs to, or that it belongs to none. Returns the service that it belonged to
    /// before. [`Self::update`] is to be called for both.
    pub(super) fn set(
        &mut self,
        object: &ObjectRef,
        service: Option<&ObjectName>,
    ) -> Option<ObjectName> {
        let before = match service {
            Some(service) => {
                *self.objects.entry(service.clone()).or_default() += 1;
                self.service_of.insert(object.clone(), service.clone())
            }
            None => self.service_of.remove(object),
        };
        if let Some(before) = &before
            && let Some(count) = self.objects.get_mut(before)
        {
            *count -= 1;
            if *count == 0 {
                self.objects.remove(before);
            }
        }
        before
    }

    /// Retains a service if it exists and has an object that cannot be used. Returns whether it was retained and no
    /// longer is.
    pub(super) fn update(&mut self, service: &ObjectName, existence: Existence) -> bool {
        if existence == Existence::Exists && self.objects.contains_key(service) {
            if !self.services.contains(service) {
                self.services.insert(service.clone());
            }
            return false;
        }
        self.services.remove(service)
    }

    /// The service that is retained because of an object.
    pub(super) fn retained_by(&self, object: &ObjectRef) -> Option<&ObjectName> {
        self.service_of.get(object).filter(|service| self.services.contains(*service))
    }

    /// The objects that stand for a service.
    pub(super) fn objects_of(&self, service: &ObjectName) -> impl Iterator<Item = &ObjectRef> {
        self.service_of.iter().filter(move |(_, of)| *of == service).map(|(object, _)| object)
    }

    pub(super) const fn services(&self) -> &BTreeSet<ObjectName> {
        &self.services
    }
}
