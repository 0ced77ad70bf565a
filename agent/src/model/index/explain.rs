//! Explains what is planned for one service.

use std::collections::HashSet;

use super::Index;
use crate::model::{
    endpoints::ThisNode,
    explain::{self, Explanation},
    object::{Kind, ObjectName, ObjectRef},
};

impl Index {
    /// How a service, or one port of it by name or number, is served with the objects as last reported, and why.
    #[must_use]
    pub fn explain(&self, service: &ObjectName, port: Option<&str>) -> Explanation {
        let zone = self.node.as_ref().and_then(|node| node.zone.clone());
        let node = ThisNode { name: &self.node_name, zone: zone.as_deref() };
        let explained = self.services.get(service).map(|state| {
            let (slices, others) = (self.slices.of(service), self.others.as_ref());
            explain::service(&state.service, slices, node, others, &self.conflicts, port)
        });
        Explanation {
            service: explained,
            input_errors: self.input_errors_of(service),
            is_waiting: self.is_waiting(service),
            zone,
        }
    }

    /// What is wrong with a service and its slices.
    fn input_errors_of(&self, service: &ObjectName) -> Vec<String> {
        let own = ObjectRef { kind: Kind::Service, name: service.clone() };
        let of_slice =
            |name: &ObjectName| ObjectRef { kind: Kind::EndpointSlice, name: name.clone() };
        let usable = self.slices.of(service).map(|slice| of_slice(&slice.name));
        let unusable = self.unreadable.objects_of(service).cloned();
        let objects: HashSet<ObjectRef> = usable.chain(unusable).chain([own]).collect();
        let input_errors = self.input_errors().into_iter();
        input_errors
            .filter(|error| error.object.reference().is_some_and(|of| objects.contains(of)))
            .map(|input_error| input_error.to_string())
            .collect()
    }
}
