//! Services of which an object cannot be used at all: what is programmed for them stays.
//!
//! Nobody knows what such an object was to say. To take its service away would turn a typo into an
//! outage; to go on with the object as it was before would make the plan depend on how long this
//! process runs. So the service has no part in the plan, and the kernel keeps what it has of it, which
//! a restarted agent finds there as well. A Service that is deleted is deleted, whatever becomes of its
//! slices.

use std::collections::{BTreeSet, HashMap};

use crate::model::object::{ObjectName, ObjectRef};

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
    /// Takes in that an object stands for a service, or for none; returns the service that it stood for
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

    /// Takes in whether a service exists; returns whether it was retained and is no more.
    pub(super) fn update(&mut self, service: &ObjectName, exists: bool) -> bool {
        if exists && self.objects.contains_key(service) {
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

    pub(super) const fn services(&self) -> &BTreeSet<ObjectName> {
        &self.services
    }
}
