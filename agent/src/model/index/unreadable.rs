//! Services of which an object cannot be used at all: what is programmed for them stays.
//!
//! Nobody knows what such an object was to say. To take its service away would turn a typo into an
//! outage; to go on with the object as it was before would make the plan depend on how long this
//! process runs. So the service has no part in the plan, and the kernel keeps what it has of it, which
//! a restarted agent finds there as well.

use std::collections::{BTreeSet, HashMap};

use crate::model::object::{ObjectName, ObjectRef};

#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// The services that objects stand for which cannot be used.
    service_of: HashMap<ObjectRef, ObjectName>,
    /// The same, each once.
    services: BTreeSet<ObjectName>,
}

impl Unreadable {
    /// Takes in that an object retains a service, or none; returns the service that nothing retains any
    /// more.
    pub(super) fn set(
        &mut self,
        object: &ObjectRef,
        service: Option<ObjectName>,
    ) -> Option<ObjectName> {
        let before = match service {
            Some(service) => {
                self.services.insert(service.clone());
                self.service_of.insert(object.clone(), service)
            }
            None => self.service_of.remove(object),
        };
        let before = before.filter(|before| self.service_of.values().all(|other| other != before));
        before.inspect(|service| {
            self.services.remove(service);
        })
    }

    pub(super) const fn services(&self) -> &BTreeSet<ObjectName> {
        &self.services
    }
}
